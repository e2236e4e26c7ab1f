"""Map stage of a build: every block of the input is tokenized by worker processes.

A block that is in the cache is only read. The parent holds one small record per block; each worker
holds one block and its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from gemfit.data.build.block_cache import BlockCache, BlockNotes
from gemfit.data.build.block_pipeline import make_block
from gemfit.data.build.reference_check import ReferenceChecker
from gemfit.data.build.worker_pool import run_tasks
from gemfit.data.jsonl.blocks import Block, count_lines, lines_before
from gemfit.data.jsonl.inputs import all_blocks, block_text, inputs_of
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.data.render.render_context import RenderContext
from gemfit.data.tokenize import EngineMismatch
from gemfit.data.tokenize.verification import VerificationSample
from gemfit.errors import UserError
from gemfit.schemas.pack_job import PackJob

_SECOND_LINE = 2
"""Lines of a block count from here: its byte order mark is gone, so no line is the first of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MappedBlock:
    """A block that was looked up or tokenized."""

    number: int
    input: int
    key: str
    """Name in the cache; empty where no line starts in the block."""
    in_array: bool = False
    """Whether its lines are elements of a JSON array."""
    lines: int
    tokens: int = 0
    """Of its conversations; 0 where it is missing."""
    state: str
    """`found`: it was in the cache; `made`: it was tokenized now; `missing`: it was only looked for."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several jobs that share the blocks of a pack: every ``count``-th block."""

    index: int
    """From 1."""
    count: int

    def takes(self, number: int) -> bool:
        """Whether the block of this number belongs to the shard."""
        return number % self.count == self.index - 1


ALL = Shard(1, 1)


def make_blocks(
    job: PackJob,
    store: BlockCache,
    context: RenderContext | None,
    *,
    num_workers: int,
    shard: Shard = ALL,
    on_progress: Callable[[int], None] = lambda done: None,
    on_block: Callable[[MappedBlock], None] = lambda made: None,
    checker: ReferenceChecker | None = None,
) -> list[MappedBlock]:
    """Make the tokenized blocks of ``shard``, in input order; without ``context`` only look for them.

    The first bad line in input order is a ``UserError`` unless ``on_error`` is `skip`. ``on_progress``
    gets the number of bytes done, ``on_block`` each block in input order while others are being made.
    ``checker`` gets a sample of each, and its ``EngineMismatch`` is raised.
    """
    task = _BlockTask(job, tuple(one.path for one in inputs_of(job)), store, context)
    ordered = _InOrder(tokens_wanted(job) if shard == ALL else None, shard, on_block)
    done = 0
    blocks = (block for block in all_blocks(job) if shard.takes(block.number))
    wanted = takewhile(lambda _: not ordered.reached, blocks)
    offered = None
    try:
        for block, (made, sample) in run_tasks(wanted, task, num_workers=num_workers, describe=task.describe):
            if checker is not None and sample is not None:
                checker.offer(sample)
                offered = checker
            ordered.add(made)
            done += block.disk_bytes
            on_progress(done)
    except EngineMismatch:
        raise
    except BaseException:
        _await(offered)
        raise
    _await(offered)
    return ordered.taken


def _await(offered: ReferenceChecker | None) -> None:
    """Wait for the comparison: later builds take the blocks from the cache without comparing again."""
    if offered is not None:
        offered.finish()


def tokens_wanted(job: PackJob) -> int | None:
    """After how many tokens a stream is read no further; `None` where everything is read.

    Half as many again as ``max_rows`` rows hold, because copies will be left out.
    """
    data = job.data
    if data.max_rows is None or len(job.sources) > 1 or job.sources[0].hub is None:
        return None
    return int(1.5 * data.max_rows * data.seq_len / (1 - data.validation_share) / job.sources[0].weight)


class _InOrder:
    """Reorders blocks to input order, until they hold the tokens that are wanted.

    Which blocks are taken depends on their order, not from which worker was faster.
    """

    def __init__(self, tokens: int | None, shard: Shard, on_block: Callable[[MappedBlock], None]) -> None:
        self._wanted, self._step, self._on_block = tokens, shard.count, on_block
        self._waiting: dict[int, MappedBlock] = {}
        self._next, self._tokens = shard.index - 1, 0
        self.taken: list[MappedBlock] = []
        self.reached = False

    def add(self, made: MappedBlock) -> None:
        """One more block."""
        self._waiting[made.number] = made
        while not self.reached and (one := self._waiting.pop(self._next, None)):
            self._next += self._step
            self._tokens += one.tokens
            self.taken.append(one)
            self._on_block(one)
            self.reached = self._wanted is not None and self._tokens >= self._wanted


@dataclass(frozen=True, slots=True)
class _BlockTask:
    """Work of a worker on one block: look it up in the cache, else tokenize it."""

    job: PackJob
    paths: tuple[str, ...]
    """Of the inputs."""
    store: BlockCache
    context: RenderContext | None

    def __call__(self, block: Block) -> tuple[MappedBlock, VerificationSample | None]:
        text = block_text(block, self.paths[block.input])
        lines = count_lines(text)
        key = self.store.key(text) if lines else ""
        made = MappedBlock(
            number=block.number,
            input=block.input,
            key=key,
            in_array=block.in_array,
            lines=lines,
            state="found",
        )
        if not key:
            return made, None
        if self.store.has(key):
            tokenized = self.store.read(key)
            if tokenized.notes.rejected and self.job.data.on_error == "fail":
                raise self._refusal(block, *tokenized.notes.rejected[0])
            return replace(made, tokens=int(tokenized.columns["tokens"].sum(dtype=np.int64))), None
        if self.context is None:
            return replace(made, state="missing"), None
        tokens, sample = self._make(self.context, block, text, key)
        return replace(made, state="made", tokens=tokens), sample

    def describe(self, block: Block) -> str:
        return f"{self.paths[block.input]}, bytes {block.start:,} to {block.stop:,}"

    def _make(
        self, context: RenderContext, block: Block, text: bytes, key: str
    ) -> tuple[int, VerificationSample | None]:
        rejected: list[tuple[int, str]] = []

        def reject(rejection: Rejection) -> None:
            line = int(rejection.place.rsplit(":", 1)[1]) - _SECOND_LINE + 1
            if self.job.data.on_error == "fail":
                raise self._refusal(block, line, rejection.reason)
            rejected.append((line, rejection.reason))

        tokenized, counts = make_block(text, _SECOND_LINE, "block", context, reject)
        notes = BlockNotes(
            lines=counts.lines,
            blank=counts.blank,
            rejected=tuple(rejected),
            untrained=counts.untrained,
            empty_messages=counts.empty_messages,
            forms=dict(counts.forms),
            pii=counts.pii,
            engine=context.encoder.name,
        )
        self.store.write(key, replace(tokenized, lines=tokenized.lines - _SECOND_LINE + 1), notes)
        return int(tokenized.tokens.sum(dtype=np.int64)), counts.sample

    def _refusal(self, block: Block, line: int, reason: str) -> UserError:
        """The error that ends a build on its first bad line."""
        path, before = self.paths[block.input], block.lines_before
        if before is None:
            before = lines_before(Path(path), block.start)
        return UserError(f"{block.place(path, before + line)}: {reason}")
