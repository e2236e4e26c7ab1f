"""Build a pack: conversations in, a folder of packed rows out, whole or not at all.

Map: every block of the input is tokenized, on all cores (``make_blocks``), while the parent collects columns
per conversation on disk (``ConversationTable``). Then rows are planned (``row_plan``), and all cores gather
and write them (``write_rows``). Tokenizer and encoders are freed before that. A worker holds one block, then
one batch of rows. Disk: blocks take 4 bytes per token and stay in the cache, the pack 8 bytes per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gemfit.core.atomic_file import write_atomic
from gemfit.core.atomic_folder import explaining, staging
from gemfit.core.one_writer import one_writer
from gemfit.core.progress import Progress, progress
from gemfit.data.build.block_cache import BlockCache, block_cache_of, note_shards, noted_shards, trim
from gemfit.data.build.compile_kernels import compiling
from gemfit.data.build.conversation_table import Collector
from gemfit.data.build.encoder_tables import delete_tables
from gemfit.data.build.map_blocks import ALL, MappedBlock, Shard, make_blocks
from gemfit.data.build.merge import assemble
from gemfit.data.build.reference_check import ReferenceChecker
from gemfit.data.build.setup import (
    free_encoder,
    freeze_heap,
    prepare_render_context,
    prepare_tokenizer,
)
from gemfit.data.jsonl.inputs import check_unchanged
from gemfit.data.pack.reader import MANIFEST, read_manifest
from gemfit.data.render.render_context import RenderContext
from gemfit.data.tokenize import Engine, EngineMismatch
from gemfit.data.tokenize.file_tokenizer import tokenizer_digest_of
from gemfit.errors import UserError
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import PackJob

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How a pack is built; nothing of it changes a byte of the result."""

    num_workers: int
    engine: Engine = "auto"


class PackBuilder:
    """Builds the pack of one job, whole or in shards; a fault of the input is a ``UserError``.

    Blocks that were tokenized stay in the cache, whatever happens: the next build goes on from them.
    """

    def __init__(self, job: PackJob, options: BuildOptions, say: Say) -> None:
        self.job = job
        self.options = options
        self._say = say

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that the job names, or one trained on its conversations."""
        return prepare_tokenizer(self.job)

    @cached_property
    def cache(self) -> BlockCache:
        """Where the tokenized blocks of this job are kept."""
        return block_cache_of(self.job, tokenizer_digest_of(self.tokenizer))

    def build(self, out: Path) -> PackManifest:
        """Make the pack in the folder ``out``; one of the same fingerprint there is taken as it is."""
        # Before the lock: a finished pack may lie where nothing can be written.
        if manifest := self._finished(out):
            return manifest
        with one_writer(out, self._say):
            if manifest := self._finished(out):
                return manifest
            check_unchanged(self.job.files)
            with self._blaming_changes():
                with compiling(self._say) as wait_for_kernels:
                    collector = self._tokenize()
                    free_encoder(self.tokenizer)
                    wait_for_kernels()
                return self._write(collector, out)

    def build_shard(self, shard: Shard) -> None:
        """Tokenize every ``shard.count``-th block, for ``merge`` to find."""
        check_unchanged(self.job.files)
        note_shards(self.job, shard.count)
        with self._blaming_changes():
            self._tokenize(shard)

    def merge(self, out: Path) -> PackManifest:
        """Make the pack of blocks that are all in the cache; an error names the shards of missing ones."""
        with one_writer(out, self._say):
            if manifest := self._finished(out):
                return manifest
            check_unchanged(self.job.files)
            with _progress(self.job, "looking for blocks") as shown:
                workers = self.options.num_workers
                blocks = make_blocks(self.job, self.cache, None, num_workers=workers, on_progress=shown.at)
            if missing := [block.number for block in blocks if block.state == "missing"]:
                raise UserError(_shards_to_run(missing, len(blocks), noted_shards(self.job)))
            with explaining(self.cache.folder):
                collector = Collector(self.cache, self.job.data)
                for block in blocks:
                    collector.add(block)
            return self._write(collector, out)

    @contextmanager
    def _blaming_changes(self) -> Iterator[None]:
        """Where a file has changed while it was read, say that and not what half of it looked like."""
        try:
            yield
        except UserError:
            check_unchanged(self.job.files)
            raise

    def _finished(self, out: Path) -> PackManifest | None:
        if not out.exists() or not any(out.iterdir()):
            return None
        if (out / MANIFEST).is_file() and (found := read_manifest(out)).fingerprint == self.job.fingerprint:
            return found
        raise UserError(f"{out}: holds something else; choose another --out")

    def _tokenize(self, shard: Shard = ALL) -> Collector:
        """Tokenize the blocks; once more by the reference, if the fast engine was caught at a difference."""
        engine = self.options.engine
        context, checker = prepare_render_context(self.job, self.tokenizer, self._say, engine)
        try:
            blocks, collector = self._map(context, checker, shard)
        except EngineMismatch as difference:
            if engine != "auto":
                raise UserError(f"--engine {engine}: {difference}; use --engine tokenizers") from None
            self._say(
                f"{difference}; the blocks that {context.encoder.name} made are made again by tokenizers"
            )
            self.cache.drop(context.encoder.name)
            delete_tables(self.tokenizer)
            context, _ = prepare_render_context(self.job, self.tokenizer, self._say, "tokenizers")
            blocks, collector = self._map(context, None, shard)
        if found := sum(block.state == "found" for block in blocks):
            self._say(f"{found:,} of {len(blocks):,} blocks were in the cache")
        return collector

    def _map(
        self, context: RenderContext, checker: ReferenceChecker | None, shard: Shard
    ) -> tuple[list[MappedBlock], Collector]:
        freeze_heap()
        job, cache = self.job, self.cache
        with (
            _progress(job, "reading", shard.count) as shown,
            closing(checker) if checker else nullcontext(),
            explaining(cache.folder),
        ):
            collector = Collector(cache, job.data)
            blocks = make_blocks(
                job,
                cache,
                context,
                num_workers=self.options.num_workers,
                shard=shard,
                on_progress=shown.at,
                on_block=collector.add if shard == ALL else lambda block: None,
                checker=checker,
            )
            return blocks, collector

    def _write(self, collector: Collector, out: Path) -> PackManifest:
        table, notes = collector.finish()
        try:
            with staging(out) as partial:
                workers = self.options.num_workers
                manifest = assemble(self.job, self.tokenizer, table, notes, partial, num_workers=workers)
                check_unchanged(self.job.files)
                # The manifest goes last: a reader that finds it may trust every other file.
                write_atomic(partial / MANIFEST, manifest.to_json())
        except UserError:
            # Where locks do not reach, another build may have been first: its pack is the same.
            if found := self._finished(out):
                return found
            raise
        trim(self.cache.cache, table.paths)
        return manifest


def _shards_to_run(missing: list[int], blocks: int, shards: int | None) -> str:
    """The commands that make missing blocks."""
    what = f"{len(missing)} of {blocks} blocks are missing"
    if shards is None:
        return f"{what}; run `gemfit pack … --shard i/n` for i from 1 to n"
    which = sorted({number % shards + 1 for number in missing})
    runs = ", ".join(f"--shard {index}/{shards}" for index in which[:8]) + (", …" if len(which) > 8 else "")
    return f"{what}; run again with {runs}, then --merge"


def _progress(job: PackJob, what: str, shards: int = 1) -> AbstractContextManager[Progress]:
    return progress(what, None if job.streams else job.input_bytes // shards, "B")
