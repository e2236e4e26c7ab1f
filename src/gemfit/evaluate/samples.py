"""Held-out conversations up to their last reply, for models to go on with.

The messages are read back from packed rows: what was trained is what is asked, masked personal data
included. Only the first piece of a conversation is looked at, so a prompt never exceeds a row. A system
text that the format puts inside the first user's turn stays there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from gemfit.data.inspect.annotate import AnnotatedChunk, AnnotatedRow
from gemfit.data.inspect.roles import BEGIN, UNKNOWN, Ids, Marks, Span
from gemfit.evaluate.models import Opened
from gemfit.evaluate.replies import replies
from gemfit.schemas.evaluation import SampleMessage
from gemfit.train.collective import on_every_rank, rank, world_size


class ReplyPrompt(NamedTuple):
    """A conversation up to a reply, and that reply."""

    document: int
    prompt: tuple[SampleMessage, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How replies are made."""

    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int = 8


def choose(
    rows: Iterable[AnnotatedRow], marks: Marks, tokenizer: Any, *, count: int, seed: int
) -> list[ReplyPrompt]:
    """``count`` conversations at most, the same ones in any order of the rows: a hash of them decides."""
    first = [piece for row in rows for piece in row.chunks if piece.chunk.start == 0]
    unique = {piece.chunk.document: piece for piece in first}
    found: list[ReplyPrompt] = []
    for piece in sorted(unique.values(), key=lambda piece: _lot(piece, seed)):
        if len(found) == count:
            break
        if (opening := opening_of(piece, marks, tokenizer)) is not None:
            found.append(opening)
    return found


def opening_of(piece: AnnotatedChunk, marks: Marks, tokenizer: Any) -> ReplyPrompt | None:
    """Everything before the last whole reply of ``piece``; ``None`` where no message precedes a reply."""
    spans = [span for span in piece.spans if span.role != BEGIN]
    replies = [
        index
        for index, span in enumerate(spans)
        if span.role == "assistant" and _end(piece.chunk.ids[span.start : span.stop], marks)
    ]
    if not replies or not replies[-1] or spans[0].role == UNKNOWN:
        return None
    messages = [_message(piece, span, marks, tokenizer) for span in spans[: replies[-1] + 1]]
    return ReplyPrompt(piece.chunk.document, tuple(messages[:-1]), messages[-1].content)


def answers(
    opened: Opened,
    openings: Sequence[ReplyPrompt],
    settings: GenerationSettings,
    progress: Callable[[int], object],
    *,
    together: bool = False,
) -> list[str]:
    """What the model says in each; the ranks take batches in turn, and all of them know all replies.

    ``together``: the model is spread over the ranks, and all of them make all replies.
    """
    size = settings.batch_size
    batches = [openings[start : start + size] for start in range(0, len(openings), size)]
    own: dict[int, list[str]] = {}
    for number in range(len(batches)) if together else range(rank(), len(batches), world_size()):
        prompts = [opening.prompt for opening in batches[number]]
        own[number] = replies(opened, prompts, progress=progress, **asdict(settings))
    parts = on_every_rank(lambda: own)
    found = {number: texts for part in parts for number, texts in part.items()}
    return [text for number in sorted(found) for text in found[number]]


def _message(piece: AnnotatedChunk, span: Span, marks: Marks, tokenizer: Any) -> SampleMessage:
    ids = piece.chunk.ids[span.start : span.stop]
    header = next(ids_of for role, ids_of in marks.headers if role == span.role)
    body = ids[len(header) : len(ids) - _end(ids, marks)]
    return SampleMessage(role=span.role, content=tokenizer.decode(body.tolist()).strip())


def _end(ids: Ids, marks: Marks) -> int:
    """Tokens that end the turn ``ids``, and the conversation with it; 0 where it was cut off."""
    for end in sorted((*marks.ends, *(np.append(end, marks.final) for end in marks.ends)), key=len)[::-1]:
        if len(ids) > len(end) and np.array_equal(ids[len(ids) - len(end) :], end):
            return len(end)
    return 0


def _lot(piece: AnnotatedChunk, seed: int) -> bytes:
    return hashlib.blake2b(piece.chunk.ids.tobytes(), key=str(seed).encode(), digest_size=16).digest()
