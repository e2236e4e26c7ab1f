"""Find the shape of a recipe's model: shipped Gemma 3 facts, ``config.json`` on disk, or the recipe itself.

Looks into a local folder or the Hub cache. Nothing is downloaded, because login nodes often cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gemfit.core.hub_commit import cached_commit, cached_snapshot
from gemfit.core.json_file import read_json_object
from gemfit.errors import UserError
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit_launch.predict.model_shape import ModelShape

Config = Mapping[str, Any]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GEMMA_3 = "gemma3_text"
OPTIONAL = ("num_key_value_heads", "head_dim", "sliding_window")
MOST = 2**24
"""Largest size in a configuration: vocabularies have fewer tokens."""
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundShape:
    """A model shape, or why there is none."""

    shape: ModelShape | None
    why_not: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Properties of a ``model_type`` that ``config.json`` leaves out."""

    norms_per_layer: int = 2
    qk_norm: bool = False
    biases: tuple[str, ...] = ()
    tied: bool = False
    """Of a configuration that leaves `tie_word_embeddings` out."""
    required: tuple[str, ...] = REQUIRED
    defaults: Mapping[str, int] = field(default_factory=dict)
    """Defaults of transformers, which configurations on disk may leave out."""


FAMILIES = {
    GEMMA_3: Family(
        norms_per_layer=4,
        qk_norm=True,
        tied=True,
        defaults={
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
        },
    ),
    "gemma2": Family(norms_per_layer=4, tied=True, required=(*REQUIRED, "head_dim")),
    "llama": Family(),
    "qwen2": Family(biases=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family(qk_norm=True, required=(*REQUIRED, "head_dim")),
}


def find_shape(model: ModelRecipe) -> FoundShape:
    """The shape of ``model``; a broken ``config.json`` is a ``UserError``."""
    if model.scratch is not None:
        return FoundShape(shape=shape_of_scratch(model.scratch))
    assert model.id is not None, "ModelRecipe has an id or is scratch"
    if (shipped := shipped_shapes().get(model.id)) is not None:
        return FoundShape(shape=shipped)
    file = find_config(model.id, model.revision)
    if file is None:
        return FoundShape(
            shape=None,
            why_not=f"there is no config.json of {model.id} in the Hub cache; "
            f"download it (`hf download {model.id} config.json`) or give a folder",
        )
    return _from_file(file)


@cache
def shipped_shapes() -> dict[str, ModelShape]:
    """Gemma 3 shapes by Hugging Face id, from the facts in the package."""
    found: dict[str, ModelShape] = {}
    for file in sorted(Path(str(files("gemfit_launch.predict") / "facts")).glob("*.json")):
        fact = json.loads(file.read_text())
        shape = shape_from_config(fact["config"], vision_parameters=fact["vision_parameters"])
        found |= dict.fromkeys(fact["ids"], shape)
    return found


def find_config(model_id: str, revision: str) -> Path | None:
    """``config.json`` of a local folder, or of a snapshot in the Hub cache."""
    local = Path(model_id).expanduser() / "config.json"
    if local.is_file():
        return local
    commit = cached_commit("model", model_id, revision)
    snapshot = cached_snapshot("model", model_id, commit) if commit is not None else None
    cached = snapshot / "config.json" if snapshot is not None else None
    return cached if cached is not None and cached.is_file() else None


def shape_of_scratch(scratch: ScratchModel) -> ModelShape:
    """The Gemma 3 that a recipe describes; its vocabulary is at most what the recipe says."""
    return shape_from_config(scratch.model_dump() | {"model_type": GEMMA_3})


def shape_from_config(config: Config, *, vision_parameters: int = 0) -> ModelShape:
    """The shape that a ``config.json`` describes; the text part of a multimodal one."""
    text = text_part(config)
    family = FAMILIES[text["model_type"]]
    merged: dict[str, Any] = {**family.defaults, **text}
    hidden, heads = merged["hidden_size"], merged["num_attention_heads"]
    sliding = _sliding_layers(merged)
    return ModelShape(
        family=text["model_type"],
        vocab_size=merged["vocab_size"],
        hidden_size=hidden,
        intermediate_size=merged["intermediate_size"],
        num_layers=merged["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=merged.get("num_key_value_heads") or heads,
        head_dim=merged.get("head_dim") or hidden // heads,
        sliding_window=merged.get("sliding_window") if sliding else None,
        num_sliding_layers=sliding,
        tied=merged.get("tie_word_embeddings", family.tied),
        norms_per_layer=family.norms_per_layer,
        qk_norm=family.qk_norm,
        attention_biases=ATTENTION if merged.get("attention_bias") else family.biases,
        mlp_bias=bool(merged.get("mlp_bias")),
        vision_parameters=vision_parameters,
    )


def _from_file(file: Path) -> FoundShape:
    config = read_config(file)
    if not isinstance(config.get("text_config") or {}, dict):
        raise UserError(f"{file}: text_config is no JSON object; copy it again")
    text = text_part(config)
    kind = text.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return FoundShape(shape=None, why_not=f"{file}: {kind!r} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    missing = [key for key in family.required if key not in {**family.defaults, **text}]
    if missing:
        return FoundShape(shape=None, why_not=f"{file}: does not say {', '.join(missing)}")
    given = {**dict.fromkeys(OPTIONAL, 1), **family.defaults, **text}
    for key in (*family.required, *OPTIONAL):  # layers are counted one by one
        size = given[key] or (1 if key in OPTIONAL else 0)  # null: the default
        if type(size) is not int or not 0 < size <= MOST:
            raise UserError(f"{file}: {key} is {size!r:.60}, which is no size of a model; copy it again")
    try:
        return FoundShape(shape=shape_from_config(config))
    except (TypeError, ValueError, ZeroDivisionError) as error:  # pydantic's errors are values' too
        first = str(error).splitlines()[0]
        raise UserError(f"{file}: is not the configuration of a model: {first}; copy it again") from None


def read_config(file: Path) -> dict[str, Any]:
    """The configuration in ``file``; a ``UserError`` where it is not a JSON object."""
    return read_json_object(file)


def text_part(config: Config) -> dict[str, Any]:
    """The configuration of the text model, which of a text-only model is the whole one."""
    text = dict(config.get("text_config") or config)
    if "text_config" in config and "tie_word_embeddings" in config:
        text.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
    return text


def _sliding_layers(config: Config) -> int:
    """Layers with sliding-window attention: as listed, else by the pattern of Gemma 3 and Gemma 2."""
    if "layer_types" in config:
        return list(config["layer_types"] or ()).count("sliding_attention")
    layers: int = config["num_hidden_layers"]
    match config["model_type"]:
        case "gemma3_text":
            pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
            return sum(bool((layer + 1) % pattern) for layer in range(layers))
        case "gemma2":  # every second layer is global
            return (layers + 1) // 2
    return 0
