"""Template segments: the control texts of a format, for chat template rendering and role markers.

In both formats control texts and contents are tokenized separately and joined. Special tokens are
recognised in control texts only, so a user's text never becomes a control token. ``<|user|>`` of
``role_markers`` is not a special token: a user can write it, but not the EOS token that ends every message.

With Gemma's tokenizer and template the joined ids equal those of the whole text, except if a system text
begins or ends with a line break: there one token for two breaks becomes two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.render.render_template import render_template
from gemfit.errors import UserError

LITERAL_EOS = "<|eos|>"
_MARK = re.compile(r"( \n)?mark(\d)mark(\n )?")


@dataclass(frozen=True, slots=True)
class TemplateSegments:
    """Control texts of a format, for one tokenizer."""

    begin: str
    """Before the first message of a conversation without a system message."""
    headers: Mapping[str, str]
    """Before the content, by role."""
    ends: Mapping[str, str]
    """After the content, by role."""
    system_before: str
    system_after: str
    system_inside: bool
    """Whether the system text is inside the first user turn, after its header (Gemma)."""
    reply: str
    """Generation prompt, after the last message."""
    trimmed: frozenset[str] = field(default_factory=frozenset)
    """Roles whose content is stripped of white space."""
    final: str = ""
    """After the last message."""

    def content(self, message: Message) -> str:
        """The text of a message as it is tokenized."""
        return message.content.strip() if message.role in self.trimmed else message.content


def role_markers(tokenizer: Any, eos: str) -> TemplateSegments:
    """Segments of ``role_markers``: ``<|role|>`` as text, content, the tokenizer's EOS token.

    With ``eos="literal"`` the text ``<|eos|>`` ends a message, and one EOS token the conversation.
    """
    bos, token = tokenizer.bos_token or "", str(tokenizer.eos_token)
    end = token if eos == "token" else LITERAL_EOS
    headers = {role: f"<|{role}|>" for role in ROLES}
    return TemplateSegments(
        begin=bos,
        headers=headers,
        ends=dict.fromkeys(ROLES, end),
        system_before=bos + headers["system"],
        system_after=end,
        system_inside=False,
        reply=headers["assistant"],
        final="" if eos == "token" else token,
    )


def chat_template(tokenizer: Any) -> TemplateSegments:
    """Segments of the tokenizer's chat template, found by rendering marked conversations.

    A template whose turns are not header, content, end is a ``UserError``; ``check_template`` later compares
    whole conversations, so that nothing the marks missed passes unnoticed.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "data.format is chat_template, but the tokenizer has no chat template; "
            "use format: role_markers, or the tokenizer of an instruction-tuned model"
        )
    try:
        return _probe(tokenizer)
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"data.format is chat_template, but the tokenizer's template cannot be followed: {error}; "
            "use format: role_markers"
        ) from None


def check_template(tokenizer: Any, segments: TemplateSegments, conversation: Conversation) -> None:
    """Refuse a conversation that the template refuses, or renders differently than the segments."""
    place, messages = conversation.place, conversation.messages
    if conversation.tools:
        raise UserError(
            f"{place}: has {conversation.tools}, which the chat template has no fixed format for; "
            "use data.format: role_markers, or remove the tools"
        )
    dicts = [message._asdict() for message in messages]
    try:
        wanted = render_template(tokenizer, dicts, tokenize=False)
    except TemplateError as error:
        roles = ", ".join(role for role, _ in messages[:6]) + (", …" if len(messages) > 6 else "")
        raise UserError(
            f"{place}: the chat template refuses the roles {roles}: {error}; "
            "correct the conversation, or use data.format: role_markers"
        ) from None
    if wanted != "".join(rendered_texts(segments, messages)):
        raise UserError(
            f"{place}: the chat template rewrites this conversation (it drops or changes contents), "
            "so its tokens have no certain labels; use data.format: role_markers"
        )


def rendered_texts(segments: TemplateSegments, messages: Sequence[Message]) -> list[str]:
    """Control texts and contents of a conversation, alternating."""
    texts = [segments.begin]
    turns = list(messages)
    if turns[0].role == "system":
        texts = [segments.system_before, segments.content(turns.pop(0)), segments.system_after]
    for index, message in enumerate(turns):
        # The first header precedes the system text already.
        inside = segments.system_inside and len(texts) == 3 and index == 0
        header = "" if inside else segments.headers[message.role]
        texts += [header, segments.content(message), segments.ends[message.role]]
    return [*texts, segments.final]


def _probe(tokenizer: Any) -> TemplateSegments:
    whole, trimmed = _render(tokenizer, "user", "assistant", "user", "assistant")
    (_, user_end), _ = _render(tokenizer, "user")
    (*_, reply_end), _ = _render(tokenizer, "user", "assistant")
    (_, prompt), _ = _render(tokenizer, "user", generate=True)
    headers = {
        "user": _without_start(whole[2], reply_end),
        "assistant": _without_start(whole[1], user_end),
    }
    begin = _without_end(whole[0], headers["user"])
    before, after, inside, system_trimmed = _probe_system(tokenizer, begin, headers["user"])
    return TemplateSegments(
        begin=begin,
        headers=headers,
        ends={"user": user_end, "assistant": reply_end},
        system_before=before,
        system_after=after,
        system_inside=inside,
        reply=_without_start(prompt, user_end),
        trimmed=trimmed | system_trimmed,
    )


def _probe_system(tokenizer: Any, begin: str, header: str) -> tuple[str, str, bool, frozenset[str]]:
    """Text before and after the system content, and whether it is inside the user turn."""
    try:
        (before, after, _), trimmed = _render(tokenizer, "system", "user")
    except TemplateError:
        # The template takes no system message: check_template refuses the conversations that have one.
        return begin, "", False, frozenset()
    if after.endswith(header):
        return before, _without_end(after, header), False, trimmed
    if before == begin + header:
        return before, after, True, trimmed
    raise ValueError("the system message is neither a turn of its own nor in the first user turn")


def _render(tokenizer: Any, *roles: str, generate: bool = False) -> tuple[list[str], frozenset[str]]:
    """The text around the contents of a marked conversation, and the roles that are trimmed."""
    marked = [{"role": role, "content": f" \nmark{i}mark\n "} for i, role in enumerate(roles)]
    text = render_template(tokenizer, marked, tokenize=False, add_generation_prompt=generate)
    found = list(_MARK.finditer(text))
    if [int(match[2]) for match in found] != list(range(len(roles))):
        raise ValueError("it drops, repeats or reorders contents")
    if any((match[1] is None) != (match[3] is None) for match in found):
        raise ValueError("it trims contents at one end only")
    edges = [0, *(edge for match in found for edge in match.span()), len(text)]
    around = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return around, frozenset(role for role, match in zip(roles, found, strict=True) if match[1] is None)


def _without_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError(f"a turn ends in {start!r} at the end of the conversation, but not before a turn")
    return text[len(start) :]


def _without_end(text: str, end: str) -> str:
    if not end or not text.endswith(end):
        raise ValueError(f"the header {end!r} is not in front of the first turn")
    return text[: -len(end)]
