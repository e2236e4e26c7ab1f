"""Chat template and stop tokens of an exported model, which write the training format.

The template of ``role_markers`` is written from the same grammar that packing uses. A template is text
and is encoded as a whole, where packing encodes markers and contents apart; so the exported tokenizer
gets a rule that nothing merges across a marker. A special token that a message spells out is taken for
one, as with every chat template.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gemfit.data.render.renderer import stop_ids
from gemfit.data.render.template_segments import LITERAL_EOS, TemplateSegments, role_markers
from gemfit.schemas.recipe import DataRecipe

MARKERS = Regex(r"<\|(?:system|user|assistant|tool|eos)\|>")
COPIED_ATTRIBUTES = ("bos_token", "eos_token", "pad_token", "unk_token", "model_max_length", "padding_side")
"""What a tokenizer says besides its rules."""


def tokenizer_for_chat(tokenizer: Any, data: DataRecipe) -> Any:
    """A tokenizer whose chat template writes the training format; under `chat_template`, as it is."""
    if data.format == "chat_template":
        return tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    apart, own = pre_tokenizers.Split(MARKERS, "isolated"), backend.pre_tokenizer
    backend.pre_tokenizer = apart if own is None else pre_tokenizers.Sequence([apart, own])
    # The class of a model family would build its own rules again; this one keeps those of the file.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: getattr(tokenizer, name) for name in COPIED_ATTRIBUTES},
        chat_template=marker_template(role_markers(tokenizer, data.eos)),
    )


def marker_template(grammar: TemplateSegments) -> str:
    """A Jinja template that writes what ``grammar`` writes, for any sequence of its roles."""
    end, final = grammar.ends["user"], grammar.final
    return (
        "{%- set headers = " + json.dumps(dict(grammar.headers)) + " -%}"
        "{{- " + json.dumps(grammar.begin) + " -}}"
        "{%- for message in messages -%}"
        "{{- headers[message.role] ~ message.content ~ " + json.dumps(end) + " -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{- " + json.dumps(grammar.reply) + " -}}"
        "{%- else -%}"
        "{{- " + json.dumps(final) + " -}}"
        "{%- endif -%}"
    )


def generation_settings(saved: dict[str, Any], tokenizer: Any, data: DataRecipe) -> dict[str, Any]:
    """``generation_config.json``: as the base model has it, and an answer ends where training ended it.

    ``saved`` is the configuration during training, which made no cache.
    """
    known = saved.get("eos_token_id") or []
    stops = {*([known] if isinstance(known, int) else known), *stop_ids(tokenizer, data.format, data.eos)}
    settings = {key: value for key, value in saved.items() if key != "_from_model_config"} | {
        "eos_token_id": sorted(stops),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
    if data.format == "role_markers" and data.eos == "literal":
        settings["stop_strings"] = [LITERAL_EOS]  # ordinary tokens, so no id can stop there
    return settings
