"""Chat template and stop tokens of an exported model: the training format, read as the training data was.

The template of ``role_markers`` is written from the segments that packing uses; that of the base model is
preceded by the reading of roles and content parts. A template is text and is encoded as a whole, where
packing encodes control texts and contents separately. So the exported tokenizer of ``role_markers`` gets a
rule that nothing merges across a marker, and a template refuses a message that spells out a special token.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gemfit.data.document import token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.jsonl.field_checks import REFUSED_KEYS
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.data.render.render_template import render_template
from gemfit.data.render.renderer import encode_control, make_renderer, prompt_ids, stop_ids
from gemfit.data.render.template_segments import LITERAL_EOS, TemplateSegments, rendered_texts, role_markers
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

logger = logging.getLogger(__name__)

MARKERS = Regex(r"<\|(?:system|user|assistant|tool|eos)\|>")
COPIED_ATTRIBUTES = ("bos_token", "eos_token", "pad_token", "unk_token", "model_max_length", "padding_side")
"""What a tokenizer says besides its rules."""

NOT_TRAINED = ("reasoning_content", "reasoning", "thinking", "image", "images", "audio", "video", "videos")
"""Keys of messages whose content training refuses by rules, as far as servers and clients send them."""


def tokenizer_for_chat(
    tokenizer: Any, data: DataRecipe, *, text_only: bool = True, refuse_merging: bool = True
) -> Any:
    """A tokenizer whose chat template renders the training format, or raises.

    With ``text_only`` a template of the base model refuses content parts that are not text. Without
    ``refuse_merging`` texts that spell out a control token, or merge with one, are rendered with other ids:
    an evaluation does not end because of one sample.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    special = special if refuse_merging else []
    if data.format == "chat_template":
        if isinstance(tokenizer.chat_template, str):
            tokenizer = copy.copy(tokenizer)
            values = {
                "controls": special,
                "edges": merging_edges(tokenizer, data) if refuse_merging else {},
                "roles": dict(LineSettings.of(data).roles),
                "text_only": text_only,
            }
            tokenizer.chat_template = (
                _assignments(values) + _template("text_messages") + tokenizer.chat_template
            )
        return tokenizer
    apart, own = pre_tokenizers.Split(MARKERS, "isolated"), backend.pre_tokenizer
    backend.pre_tokenizer = apart if own is None else pre_tokenizers.Sequence([apart, own])
    # The class of a model family would build its own rules again; this one keeps those of the file.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: getattr(tokenizer, name) for name in COPIED_ATTRIBUTES},
        chat_template=marker_template(
            role_markers(tokenizer, data.eos), LineSettings.of(data).roles, special
        ),
    )


def marker_template(segments: TemplateSegments, roles: Mapping[str, str], special: list[str]) -> str:
    """A Jinja template that renders what ``segments`` do for any conversation, and raises for anything else.

    A message with a marker or one of the ``special`` tokens is refused: in a whole text they are control
    tokens.
    """
    values = {
        "bos": segments.begin,
        "headers": dict(segments.headers),
        "roles": dict(roles),
        "end": segments.ends["user"],
        "final": segments.final,
        "controls": [*special, *segments.headers.values(), LITERAL_EOS] if special else [],
        "refused": [*REFUSED_KEYS, *NOT_TRAINED],
    }
    return _assignments(values) + _template("role_markers")


def merging_edges(tokenizer: Any, data: DataRecipe) -> dict[str, str]:
    """White space at the edge of a content that merges with the text around it in a whole text, by role.

    A role of which only the empty text does has an empty string.
    """
    renderer = make_renderer(tokenizer, data.format, data.eos)
    texts = [("", ""), *((char, text) for char in "\n\t " for text in (f"{char}a", f"a{char}"))]
    user, found = Message("user", "a"), dict[str, str]()
    for role, before, after in (("system", [], [user]), ("user", [], []), ("assistant", [user], [])):
        for char, text in texts:
            conversation = Conversation("", (*before, Message(role, text), *after))
            (document,) = renderer.render([conversation])
            whole = "".join(rendered_texts(renderer.segments, conversation.messages))
            (wanted,) = encode_control(tokenizer, [whole])
            if token_ids(document.words).tolist() != wanted.tolist():
                found[role] = "".join(dict.fromkeys(found.get(role, "") + char))
    return found


def check_same_ids(exported: Any, tokenizer: Any, data: DataRecipe) -> None:
    """Warn where whole texts give other ids than training: a tokenizer that adds or merges at boundaries.

    ``UserError`` where the template fails on what training reads.
    """
    system = {"role": "system", "content": "Answer in one line."}
    messages = [
        {"role": "user", "content": "What grows in 3 weeks?"},
        {"role": "assistant", "content": "Cress.\nIt needs water"},
        {"role": "user", "content": "And then?"},
    ]
    for conversation in (messages, [system, *messages]):
        try:
            trained = prompt_ids(conversation, tokenizer, data.format, data.eos)
        except UserError:  # a template without system messages
            continue
        try:
            rendered = render_template(exported, conversation, add_generation_prompt=True, return_dict=True)
        except TemplateError as error:
            raise UserError(f"the exported chat template fails on what training reads: {error}") from error
        if list(rendered["input_ids"]) != trained:
            logger.warning(
                "the exported chat template gives other token ids than training: this tokenizer merges or "
                "adds tokens at the boundaries of messages; give input_ids as `gemfit chat` does"
            )
            return


def _assignments(values: Mapping[str, Any]) -> str:
    return "".join(
        "{%- set " + name + " = " + json.dumps(value, ensure_ascii=False) + " -%}"
        for name, value in values.items()
    )


def _template(name: str) -> str:
    return Path(__file__).with_name(f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


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
