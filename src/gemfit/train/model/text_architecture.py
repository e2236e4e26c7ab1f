"""Text architecture of a (multimodal) checkpoint: its causal LM class and the mapping of weight names.

A Gemma 3 of 4b and more is multimodal on disk. Its text model is trained as the text-only model of the
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
"""Prefix of a name in a multimodal checkpoint, and in the text-only model."""
OTHER_MODULES = ("vision_tower.", "multi_modal_projector.", "embed_vision.", "audio_tower.", "embed_audio.")
"""Prefixes, also after ``model.``, of what a text-only model leaves out."""
COMPUTED = r"rotary_emb\.inv_freq$"
"""Older checkpoints hold these frequencies; the model computes them."""


class TextArchitecture(NamedTuple):
    """The text model inside a configuration."""

    config: Any
    """Of the text model alone."""
    model_class: type
    """The ``...ForCausalLM`` that it belongs to."""
    is_multimodal: bool
    """Whether the checkpoint holds more than this model."""


def text_architecture(config: Any, name: str) -> TextArchitecture:
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
    return TextArchitecture(text, MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], is_multimodal)


def text_name(key: str) -> str | None:
    """The text-only model's name for ``key`` of a checkpoint; ``None`` for other modules of the model."""
    for on_disk, in_model in TEXT_PREFIXES:
        if key.startswith(on_disk):
            return in_model + key.removeprefix(on_disk)
    return None if key.removeprefix("model.").startswith(OTHER_MODULES) else key


def may_be_ignored(key: str, model: torch.nn.Module) -> bool:
    """Whether ``model`` declares that it ignores this entry of a checkpoint."""
    patterns = [COMPUTED]
    for module in model.modules():
        patterns += getattr(module, "_keys_to_ignore_on_load_unexpected", None) or []
    return any(re.search(pattern, key) for pattern in patterns)


def decoder_layers(model: torch.nn.Module) -> list[str]:
    """Class names of the decoder layers of ``model``, the units in which it is sharded.

    ``RuntimeError`` where the model does not declare them.
    """
    present = {type(module).__name__ for module in model.modules()}
    found = sorted(set(_no_split_modules(model)) & present)
    if not found:
        raise RuntimeError(
            f"{type(model).__name__} declares no decoder layer that it has (_no_split_modules)"
        )
    return found


def _no_split_modules(model: torch.nn.Module) -> Iterable[str]:
    for module in model.modules():
        yield from getattr(module, "_no_split_modules", None) or ()
