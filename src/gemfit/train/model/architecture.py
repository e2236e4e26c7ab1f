"""Which class of transformers trains a model's text, and how a multimodal checkpoint names that text.

A Gemma 3 of 4b and more is multimodal on disk. Its text part is trained as the text-only model of the
same family; vision tower and projector are never built and never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from gemfit.errors import UserError

TEXT_PREFIXES = (
    ("language_model.model.", "model."),  # Gemma 3 on the hub, and what save_pretrained writes
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),  # the names in memory since transformers 4.52; Gemma 4 on the hub
)
"""Beginning of a name in a multimodal checkpoint, and in the text-only model."""
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "embed_vision.", "audio_tower.", "embed_audio.")
"""Beginnings, also after ``model.``, of what a text-only model leaves out."""
COMPUTED = r"rotary_emb\.inv_freq$"
"""Older checkpoints hold these frequencies; the model computes them."""


class Architecture(NamedTuple):
    """The text model inside a configuration."""

    config: Any
    """Of the text model alone."""
    model_class: type
    """The ``...ForCausalLM`` that it belongs to."""
    is_multimodal: bool
    """Whether the checkpoint holds more than this model."""


def text_architecture(config: Any, name: str) -> Architecture:
    """The text model of ``config``; ``UserError`` where transformers has none that predicts tokens."""
    text = config.get_text_config(decoder=True)
    is_multimodal = text is not config
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model.id: {name} is a {config.model_type!r} model, and transformers has no causal language "
            "model for its text; choose one that AutoModelForCausalLM loads"
        )
    if is_multimodal:
        text.tie_word_embeddings = config.tie_word_embeddings
    return Architecture(text, MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], is_multimodal)


def text_name(key: str) -> str | None:
    """The text-only model's name for ``key`` of a checkpoint; ``None`` for another part of the model."""
    for on_disk, in_model in TEXT_PREFIXES:
        if key.startswith(on_disk):
            return in_model + key.removeprefix(on_disk)
    return None if key.removeprefix("model.").startswith(OTHER_PARTS) else key


def may_be_ignored(key: str, model: torch.nn.Module) -> bool:
    """Whether ``model`` itself says that it has no use for this entry of a checkpoint."""
    patterns = [COMPUTED]
    for module in model.modules():
        patterns += getattr(module, "_keys_to_ignore_on_load_unexpected", None) or []
    return any(re.search(pattern, key) for pattern in patterns)


def decoder_layers(model: torch.nn.Module) -> list[str]:
    """Names of the classes of ``model`` that hold one layer each, the units in which it is sharded.

    ``RuntimeError`` where the model does not say.
    """
    present = {type(module).__name__ for module in model.modules()}
    found = sorted(set(_named_by(model)) & present)
    if not found:
        raise RuntimeError(f"{type(model).__name__} names no decoder layer that it has (_no_split_modules)")
    return found


def _named_by(model: torch.nn.Module) -> Iterable[str]:
    for module in model.modules():
        yield from getattr(module, "_no_split_modules", None) or ()
