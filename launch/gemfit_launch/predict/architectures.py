"""What is known of a model's architecture: proven, loads, or untried.

Like its shape, the architecture is read from ``config.json`` on disk; nothing is downloaded.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gemfit.schemas.recipe_model import ModelRecipe
from gemfit_launch.predict.shape_lookup import GEMMA_3, find_config, read_config, shipped_shapes, text_part

Standing = Literal["proven", "loads", "untried", "unknown"]

_TINY = "a tiny random one gives the losses and gradients of its documents alone on packed rows"
ARCHITECTURES: dict[str, tuple[Standing, str]] = {
    GEMMA_3: ("proven", "every strategy trains the same model, on several ranks; 270M with its own weights"),
    "gemma4_text": ("loads", f"{_TINY}, and trains under single, fsdp2 and zero3"),
    "gemma2": ("loads", _TINY),
    "llama": ("loads", _TINY),
    "mistral": ("loads", _TINY),
    "qwen2": ("loads", _TINY),
    "qwen3": ("loads", f"{_TINY}, and trains under fsdp2 as on one rank"),
}
"""Standing and evidence by the ``model_type`` of the text part; all others are untried."""
UNTRIED = "the self-test before the first step decides"


class Architecture(NamedTuple):
    """The architecture of a recipe's text model, and how well it is tested."""

    name: str | None
    """Its ``model_type``; ``None`` where there is no configuration to read."""
    standing: Standing
    because: str


def find_architecture(model: ModelRecipe) -> Architecture:
    """The architecture of ``model``; a broken ``config.json`` is a ``UserError``."""
    if model.id is None or model.id in shipped_shapes():
        return Architecture(GEMMA_3, *ARCHITECTURES[GEMMA_3])
    file = find_config(model.id, model.revision)
    if file is None:
        return Architecture(None, "unknown", f"there is no config.json of {model.id} here")
    text = text_part(read_config(file))
    name = text.get("model_type")
    if text.get("enable_moe_block"):
        return Architecture(name, "untried", f"it has experts; {UNTRIED}")
    return Architecture(name, *ARCHITECTURES.get(str(name), ("untried", UNTRIED)))
