"""Sample prompts: conversations of the validation split up to their last reply.

The messages are read back from packed rows: what was trained is what is prompted, masked PII
included. Only the first chunk of a conversation is read, so a prompt never exceeds a row. A system
text that the format puts inside the first user's turn stays there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from gemfit.data.inspect.annotate import AnnotatedChunk, AnnotatedRow
from gemfit.data.inspect.roles import BEGIN, UNKNOWN, ControlTokens, Ids, Span
from gemfit.evaluate.generation import generate_replies
from gemfit.evaluate.models import LoadedModel
from gemfit.schemas.evaluation import SampleMessage
from gemfit.train.collective import on_every_rank, rank, world_size


class ReplyPrompt(NamedTuple):
    """A conversation up to a reply, and that reply."""

    document: int
    prompt: tuple[SampleMessage, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Decoding settings."""

    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int = 8


def select_prompts(
    rows: Iterable[AnnotatedRow], marks: ControlTokens, tokenizer: Any, *, count: int, seed: int
) -> list[ReplyPrompt]:
    """``count`` conversations at most, the same ones in any order of the rows: a hash of them decides."""
    first = [annotated for row in rows for annotated in row.chunks if annotated.chunk.start == 0]
    unique = {annotated.chunk.document: annotated for annotated in first}
    found: list[ReplyPrompt] = []
    for annotated in sorted(unique.values(), key=lambda annotated: _sort_key(annotated, seed)):
        if len(found) == count:
            break
        if (prompt := prompt_of(annotated, marks, tokenizer)) is not None:
            found.append(prompt)
    return found


def prompt_of(annotated: AnnotatedChunk, marks: ControlTokens, tokenizer: Any) -> ReplyPrompt | None:
    """Everything before the last whole reply of ``annotated``; ``None`` where no message precedes a reply."""
    spans = [span for span in annotated.spans if span.role != BEGIN]
    replies = [
        index
        for index, span in enumerate(spans)
        if span.role == "assistant" and _end(annotated.chunk.ids[span.start : span.stop], marks)
    ]
    if not replies or not replies[-1] or spans[0].role == UNKNOWN:
        return None
    messages = [_message(annotated, span, marks, tokenizer) for span in spans[: replies[-1] + 1]]
    return ReplyPrompt(annotated.chunk.document, tuple(messages[:-1]), messages[-1].content)


def generate_samples(
    loaded: LoadedModel,
    prompts: Sequence[ReplyPrompt],
    settings: GenerationSettings,
    progress: Callable[[int], object],
    *,
    sharded: bool = False,
) -> list[str]:
    """The reply of the model to each prompt; ranks take batches in turn, and all of them get all replies.

    ``sharded``: the model is sharded over the ranks, and all of them generate all replies.
    """
    size = settings.batch_size
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    local: dict[int, list[str]] = {}
    for number in range(len(batches)) if sharded else range(rank(), len(batches), world_size()):
        conversations = [prompt.prompt for prompt in batches[number]]
        local[number] = generate_replies(loaded, conversations, progress=progress, **asdict(settings))
    parts = on_every_rank(lambda: local)
    found = {number: texts for part in parts for number, texts in part.items()}
    return [text for number in sorted(found) for text in found[number]]


def _message(annotated: AnnotatedChunk, span: Span, marks: ControlTokens, tokenizer: Any) -> SampleMessage:
    ids = annotated.chunk.ids[span.start : span.stop]
    header = next(ids_of for role, ids_of in marks.headers if role == span.role)
    body = ids[len(header) : len(ids) - _end(ids, marks)]
    return SampleMessage(role=span.role, content=tokenizer.decode(body.tolist()).strip())


def _end(ids: Ids, marks: ControlTokens) -> int:
    """Tokens that end the turn ``ids``, and the conversation with it; 0 where it was cut off."""
    for end in sorted((*marks.ends, *(np.append(end, marks.final) for end in marks.ends)), key=len)[::-1]:
        if len(ids) > len(end) and np.array_equal(ids[len(ids) - len(end) :], end):
            return len(end)
    return 0


def _sort_key(annotated: AnnotatedChunk, seed: int) -> bytes:
    return hashlib.blake2b(annotated.chunk.ids.tobytes(), key=str(seed).encode(), digest_size=16).digest()
