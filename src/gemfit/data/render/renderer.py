"""Render conversations to token ids and labels (loss mask), by role markers or the chat template.

Control texts and contents are tokenized separately and joined; see ``template_segments``. The cost is the
tokenizer's: contents of many conversations are encoded in one parallel call.

``loss_on: all`` trains every token but the first of the conversation, which nothing predicts.
``assistant`` trains the assistant's contents and what ends them, not their headers. Messages with
`weight: 0` and those of the role tool are never trained, headers included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemfit.data.document import TRAINED, Document, Turn, Words, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message, parse_messages
from gemfit.data.render.template_segments import TemplateSegments, chat_template, check_template, role_markers
from gemfit.data.tokenize.hf_tokenizers import encoding
from gemfit.errors import UserError

_NONE: Words = np.empty(0, np.uint32)
_NO = np.uint32(0)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders conversations with a tokenizer and a format."""

    tokenizer: Any
    segments: TemplateSegments
    control: Mapping[str, Words]
    """Every control text of the segments, encoded."""
    loss_on: str
    templated: bool

    def check(self, conversation: Conversation, *, follow: bool = True) -> None:
        """Raise ``UserError`` for a conversation that the format cannot express, or that trains nothing.

        Without ``follow`` the chat template is not rendered.
        """
        _check_trained(conversation, self.loss_on)
        if self.templated and follow:
            check_template(self.tokenizer, self.segments, conversation)

    def render(self, conversations: Sequence[Conversation]) -> list[Document]:
        """One document per conversation; they have passed ``check``."""
        texts = [self.segments.content(message) for c in conversations for message in c.messages]
        contents = iter(encode_contents(self.tokenizer, texts))
        return [self._document(c, [next(contents) for _ in c.messages]) for c in conversations]

    def _document(self, conversation: Conversation, contents: list[Words]) -> Document:
        segments, control = self.segments, self.control
        flags = [self._flags(conversation, index) for index in range(len(conversation.messages))]
        messages: Sequence[Message] = conversation.messages
        bos = system_prefix = control[segments.begin]
        flagged, inline_system, system_flag = bos | self._all, _NONE, _NO
        if messages[0].role == "system":
            system, system_flag = np.concatenate([contents[0], control[segments.system_after]]), flags[0][0]
            messages, contents, flags = messages[1:], contents[1:], flags[1:]
            if segments.system_inside:
                inline_system = system
            else:
                system_prefix = np.concatenate([control[segments.system_before], system])
                flagged = system_prefix | system_flag
        parts, turns, length = [flagged], [], len(system_prefix)
        for index, (message, content) in enumerate(zip(messages, contents, strict=True)):
            header, end = control[segments.headers[message.role]], control[segments.ends[message.role]]
            turns.append(Turn(message.role, length, len(header)))
            before, flag = flags[index]
            turn = [
                header | before,
                (inline_system if index == 0 else _NONE) | system_flag,
                content | flag,
                end | flag,
            ]
            if index == len(messages) - 1:
                turn.append(control[segments.final] | flag)
            parts += turn
            length += sum(map(len, turn))
        words = np.concatenate(parts)
        words[:1] &= ~TRAINED
        return Document(
            words,
            tuple(turns),
            bos,
            system_prefix,
            inline_system,
            user_header=control[segments.headers["user"]],
            user_end=control[segments.ends["user"]],
        )

    @property
    def _all(self) -> np.uint32:
        return TRAINED if self.loss_on == "all" else _NO

    def _flags(self, conversation: Conversation, index: int) -> tuple[np.uint32, np.uint32]:
        """Trained flag of a message's header, and of its content and end."""
        role = conversation.messages[index].role
        if role == "tool" or index in conversation.untrained:
            return _NO, _NO
        return self._all, TRAINED if role == "assistant" else self._all


def make_renderer(tokenizer: Any, format: str, eos: str = "token", loss_on: str = "all") -> Renderer:
    """Find the template segments of ``format`` for this tokenizer and encode them."""
    segments = chat_template(tokenizer) if format == "chat_template" else role_markers(tokenizer, eos)
    texts = list(
        {
            segments.begin,
            segments.system_before,
            segments.system_after,
            segments.reply,
            segments.final,
            *segments.headers.values(),
            *segments.ends.values(),
        }
    )
    control = dict(zip(texts, encode_control(tokenizer, texts), strict=True))
    return Renderer(tokenizer, segments, control, loss_on, format == "chat_template")


def encode_control(tokenizer: Any, texts: list[str]) -> list[Words]:
    """Ids of control texts: special tokens are recognised, none is added."""
    if cached := getattr(tokenizer, "control_ids", None):
        return [np.array(ids, np.uint32) for ids in cached(texts)]
    return _encode(tokenizer, texts, encode_special_tokens=False)


def encode_contents(tokenizer: Any, texts: list[str]) -> list[Words]:
    """Ids of contents: special tokens in them are ordinary text."""
    return _encode(tokenizer, texts, encode_special_tokens=True)


def prompt_ids(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, format: str, eos: str = "token"
) -> list[int]:
    """Prompt tokens before the assistant's reply, with BOS, as in training.

    The last message has to be a user's; anything else is a ``UserError``.
    """
    conversation = parse_messages(list(messages), "prompt")
    if conversation.messages[-1].role != "user":
        raise UserError("prompt: the last message has to be the user's, so that there is something to answer")
    renderer = make_renderer(tokenizer, format, eos)
    renderer.check(conversation)
    (document,) = renderer.render([conversation])
    control, segments = renderer.control, renderer.segments
    prompt = document.words[: len(document.words) - len(control[segments.final])]
    return token_ids(np.concatenate([prompt, control[segments.reply]])).tolist()


def stop_ids(tokenizer: Any, format: str, eos: str = "token") -> list[int]:
    """Ids that end a reply: EOS, and the first special token after a reply of the chat template.

    Under ``eos: literal`` a message ends in ordinary tokens, so only the conversation's end stops.
    """
    stops = {int(tokenizer.eos_token_id)}
    if format == "chat_template":
        (end,) = encode_control(tokenizer, [chat_template(tokenizer).ends["assistant"]])
        stops.update([int(token) for token in end if int(token) in tokenizer.all_special_ids][:1])
    return sorted(stops)


def _check_trained(conversation: Conversation, loss_on: str) -> None:
    """Refuse a conversation without trained tokens."""
    roles = ("assistant",) if loss_on == "assistant" else ("system", "user", "assistant")
    trainable = [index for index, message in enumerate(conversation.messages) if message.role in roles]
    so = f"so data.loss_on: {loss_on} trains nothing of it; remove it"
    if not trainable:
        other = ", or use loss_on: all" if loss_on == "assistant" else ""
        raise UserError(f"{conversation.place}: has no {' or '.join(roles[-2:])} message, {so}{other}")
    if conversation.untrained.issuperset(trainable):
        raise UserError(f"{conversation.place}: has `weight` 0 in all messages that could be trained, {so}")


def _encode(tokenizer: Any, texts: list[str], *, encode_special_tokens: bool) -> list[Words]:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    before = backend.encode_special_tokens
    backend.encode_special_tokens = encode_special_tokens
    try:
        with encoding():
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    return [np.array(encoding.ids, np.uint32) for encoding in encodings]
