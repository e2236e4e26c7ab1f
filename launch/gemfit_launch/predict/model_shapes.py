"""Which architecture a recipe's model has: from facts that come with gemfit, a local folder, or the recipe.

Nothing is downloaded, because login nodes often cannot. A configuration on disk leaves out what is the
default of its class, so the defaults of each family stand here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gemfit.errors import UserError
from gemfit.schemas.recipe import ModelRecipe, ScratchModel
from gemfit_launch.predict.architecture import Architecture

Config = Mapping[str, Any]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An architecture, or why there is none."""

    architecture: Architecture | None
    why_not: str | None = None


def find_architecture(model: ModelRecipe) -> Found:
    """The architecture of ``model``; a broken ``config.json`` is a ``UserError``."""
    if model.scratch is not None:
        return Found(architecture=of_scratch(model.scratch))
    assert model.id is not None, "ModelRecipe has an id or is scratch"
    if (known := shipped_architectures().get(model.id)) is not None:
        return Found(architecture=known)
    file = Path(model.id).expanduser() / "config.json"
    if not file.is_file():
        return Found(
            architecture=None,
            why_not=f"the shape of {model.id} is not known here; give a folder with its config.json",
        )
    config = _read(file)
    kind = (config.get("text_config") or config).get("model_type")
    if kind not in FAMILIES:
        return Found(architecture=None, why_not=f"{file}: {kind!r} is not one of {', '.join(FAMILIES)}")
    return Found(architecture=of_config(config))


@cache
def shipped_architectures() -> dict[str, Architecture]:
    """Architectures by Hugging Face id, from the facts in the package."""
    found: dict[str, Architecture] = {}
    for file in sorted(Path(str(files("gemfit_launch.predict") / "facts")).glob("*.json")):
        fact = json.loads(file.read_text())
        architecture = of_config(fact["config"], vision_parameters=fact["vision_parameters"])
        found |= dict.fromkeys(fact["ids"], architecture)
    return found


def of_scratch(scratch: ScratchModel) -> Architecture:
    """The Gemma 3 that a recipe describes; its vocabulary is at most what the recipe says."""
    return of_config(scratch.model_dump() | {"model_type": "gemma3_text"})


def of_config(config: Config, *, vision_parameters: int = 0) -> Architecture:
    """The architecture that a ``config.json`` describes; the text part of a multimodal one."""
    text = dict(config.get("text_config") or config)
    family = FAMILIES[text["model_type"]]
    if "text_config" in config and "tie_word_embeddings" in config:
        text.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
    merged: dict[str, Any] = family.defaults | text
    hidden, heads = merged["hidden_size"], merged["num_attention_heads"]
    layers = merged["num_hidden_layers"]
    sliding = family.sliding_layers(merged)
    return Architecture(
        family=text["model_type"],
        vocab_size=merged["vocab_size"],
        hidden_size=hidden,
        intermediate_size=merged["intermediate_size"],
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=merged.get("num_key_value_heads") or heads,
        head_dim=merged.get("head_dim") or hidden // heads,
        sliding_window=merged.get("sliding_window") if sliding else None,
        num_sliding_layers=sliding,
        tied=merged["tie_word_embeddings"],
        norms_per_layer=family.norms_per_layer,
        qk_norm=family.qk_norm,
        attention_biases=ATTENTION if merged.get("attention_bias") else family.biases,
        mlp_bias=bool(merged.get("mlp_bias")),
        vision_parameters=vision_parameters,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: is not JSON: {error}") from None
    return config


def _every_sixth_is_global(config: Config) -> int:
    if "layer_types" in config:
        return _named_sliding(config)
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    return sum(bool((layer + 1) % pattern) for layer in range(config["num_hidden_layers"]))


def _every_second_is_global(config: Config) -> int:
    return _named_sliding(config) if "layer_types" in config else (config["num_hidden_layers"] + 1) // 2


def _named_sliding(config: Config) -> int:
    return list(config.get("layer_types") or ()).count("sliding_attention")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What all models of one ``model_type`` have in common, and its defaults in `transformers`."""

    defaults: dict[str, Any]
    norms_per_layer: int = 2
    qk_norm: bool = False
    biases: tuple[str, ...] = ()
    sliding_layers: Callable[[Config], int] = _named_sliding


FAMILIES = {
    "gemma3_text": Family(
        defaults={
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        norms_per_layer=4,
        qk_norm=True,
        sliding_layers=_every_sixth_is_global,
    ),
    "gemma2": Family(
        defaults={
            "vocab_size": 256_000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        norms_per_layer=4,
        sliding_layers=_every_second_is_global,
    ),
    "llama": Family(
        defaults={
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": Family(
        defaults={
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "tie_word_embeddings": False,
        },
        biases=("q_proj", "k_proj", "v_proj"),
    ),
    "qwen3": Family(
        defaults={
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "tie_word_embeddings": False,
        },
        qk_norm=True,
    ),
}
