"""What has to be ready before workers are forked: tokenizer, encoder, grammar, compiled code."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from itertools import islice
from typing import Any

from gemfit.data.building.known import KnownTokenizer, backend_json, known_tokenizer
from gemfit.data.encode import Engine, choose_encoder
from gemfit.data.packing.split import check_room
from gemfit.data.reading.columns import Messages
from gemfit.data.reading.conversation import Conversation
from gemfit.data.reading.inputs import all_lines
from gemfit.data.reading.lines import read_block
from gemfit.data.reading.read import LINE_LIMIT, Rejection, read_line
from gemfit.data.rendering.prepared import Rendering, make_rendering
from gemfit.data.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.packing import PackJob

SAMPLE_LINES, SAMPLE_BYTES = 2_000, 2**20
"""How much of the input engines are compared on, at most."""
Say = Callable[[str], None]


def prepare_tokenizer(job: PackJob) -> Any:
    """The tokenizer that the job names, or one trained on its conversations."""
    if job.tokenizer is not None:
        return known_tokenizer(job.tokenizer, job.tokenizer_revision)
    assert job.scratch_vocab_size is not None, "a job names a tokenizer or trains one"
    return train_tokenizer(_texts(job), job.scratch_vocab_size)


def prepare_rendering(job: PackJob, tokenizer: Any, say: Say, engine: Engine = "auto") -> Rendering:
    """The rendering of the job, with the fastest encoder that is proved on the beginning of the input."""
    encoder = choose_encoder(backend_json(tokenizer), sample_of(job), say, engine=engine, tokenizer=tokenizer)
    rendering = make_rendering(tokenizer, job.data, encoder)
    renderer = rendering.renderer
    check_room(renderer.control[renderer.grammar.begin], job.data.seq_len)
    return rendering


def settle() -> None:
    """Give back what loading has left over, and leave the rest where it is: workers share it after a fork."""
    gc.collect()
    gc.freeze()
    # Only the GNU library has it; elsewhere a fork costs some more memory.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def release(tokenizer: Any) -> None:
    """Give back what only rendering needs: the engines are larger than all that comes after them."""
    if isinstance(tokenizer, KnownTokenizer):
        tokenizer.forget()
    gc.unfreeze()
    settle()


def sample_of(job: PackJob) -> Messages:
    """The beginning of the input, for engines to be compared on."""
    lines: list[bytes] = []
    size = 0
    for _, line in islice(all_lines(job), SAMPLE_LINES):
        lines.append(line)
        size += len(line)
        if size >= SAMPLE_BYTES:
            break
    # Bad lines are told when their block is read.
    return read_block(b"\n".join(lines), 1, "sample", Unchecked(), _pass_over)[0]


def _texts(job: PackJob) -> Any:
    """Every content of every valid conversation; bad lines stop it only if they stop the build."""
    for place, line in all_lines(job):
        if line.strip():
            try:
                conversation = read_line(line.rstrip(b"\r\n") if len(line) <= LINE_LIMIT else None, place)
            except UserError:
                if job.data.on_error == "fail":
                    raise
                continue
            yield from (text for _, text in conversation.messages)


class Unchecked:
    """Lets every conversation pass: only texts are wanted."""

    def passes(self, messages: Messages) -> bool:
        return True

    def check(self, conversation: Conversation) -> None:
        pass


def _pass_over(rejection: Rejection) -> None:
    pass
