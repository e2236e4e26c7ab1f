"""Build a pack: conversations in, a folder of packed rows out, whole or not at all.

First every block of the input becomes a part, on all cores (``make_blocks``); meanwhile the parent joins
their columns on disk (``talks``), then decides what each row holds (``plan_rows``), and all cores gather
and write the rows (``rows``). The engines are given back before that. A worker keeps one block, then one
batch of rows. Disk: parts take 4 bytes a token and stay in the cache, the result takes 8 bytes a place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemfit.core.atomic_file import write_atomic
from gemfit.core.atomic_folder import explained, staging
from gemfit.core.progress import Progress, progress
from gemfit.data.build.block_cache import BlockCache, block_cache_of, note_shards, noted_shards, trim
from gemfit.data.build.compile_kernels import compiling
from gemfit.data.build.conversation_table import Collector
from gemfit.data.build.map_blocks import ALL, MappedBlock, Shard, make_blocks
from gemfit.data.build.merge import assemble
from gemfit.data.build.reference_check import ReferenceChecker
from gemfit.data.build.setup import (
    delete_tables,
    freeze_heap,
    prepare_render_context,
    prepare_tokenizer,
    release,
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


def build_pack(job: PackJob, out: Path, ways: BuildOptions, say: Say) -> PackManifest:
    """Make the pack of ``job`` in the folder ``out``; a pack of the same fingerprint there is kept.

    Everything that a person can get wrong is a ``UserError``, and leaves nothing but the parts.
    """
    if out.exists() and any(out.iterdir()):
        return _existing(job, out)
    check_unchanged(job.files)
    with compiling(say) as wait_for_kernels:
        tokenizer = prepare_tokenizer(job)
        store = block_cache_of(job, tokenizer_digest_of(tokenizer))
        collector = _parts(job, tokenizer, store, ways, say)
        release(tokenizer)
        wait_for_kernels()
    return _joined(job, tokenizer, store, collector, out, ways)


def build_shard(job: PackJob, shard: Shard, ways: BuildOptions, say: Say) -> None:
    """Make the parts of every ``shard.count``-th block, for ``merge_pack`` to find."""
    check_unchanged(job.files)
    tokenizer = prepare_tokenizer(job)
    store = block_cache_of(job, tokenizer_digest_of(tokenizer))
    note_shards(job, shard.count)
    _parts(job, tokenizer, store, ways, say, shard)


def merge_pack(job: PackJob, out: Path, ways: BuildOptions) -> PackManifest:
    """The pack of parts that are all there; a missing one is a ``UserError`` that names its shard."""
    if out.exists() and any(out.iterdir()):
        return _existing(job, out)
    check_unchanged(job.files)
    tokenizer = prepare_tokenizer(job)
    store = block_cache_of(job, tokenizer_digest_of(tokenizer))
    with _progress(job, "looking for parts") as shown:
        made = make_blocks(job, store, None, num_workers=ways.num_workers, at=shown.at)
    missing = [one.number for one in made if one.state == "missing"]
    if missing:
        raise UserError(_to_run(missing, len(made), noted_shards(job)))
    try:
        collector = Collector(store, job.data)
        for one in made:
            collector.add(one)
    except OSError as error:
        raise explained(error, store.folder) from error
    return _joined(job, tokenizer, store, collector, out, ways)


def _existing(job: PackJob, out: Path) -> PackManifest:
    if (out / MANIFEST).is_file() and (manifest := read_manifest(out)).fingerprint == job.fingerprint:
        return manifest
    raise UserError(f"{out}: is already there and is not this pack; remove it, or choose another --out")


def _to_run(missing: list[int], blocks: int, shards: int | None) -> str:
    """What to do about missing parts."""
    if shards is None:
        what = f"{len(missing)} of {blocks} parts are not there"
        return f"{what}; run `gemfit pack … --shard i/n` for i from 1 to n"
    which = sorted({number % shards + 1 for number in missing})
    runs = ", ".join(f"--shard {index}/{shards}" for index in which[:8]) + (", …" if len(which) > 8 else "")
    return f"{len(missing)} of {blocks} parts are not there; run again with {runs}, then --merge"


def _parts(
    job: PackJob, tokenizer: Any, store: BlockCache, ways: BuildOptions, say: Say, shard: Shard = ALL
) -> Collector:
    """Make the parts; once more by the reference, if the fast engine was caught at a difference."""
    rendering, watch = prepare_render_context(job, tokenizer, say, ways.engine)
    try:
        made, collector = _with_progress(job, store, rendering, watch, ways, shard)
    except EngineMismatch as difference:
        if ways.engine != "auto":
            raise UserError(f"--engine {ways.engine}: {difference}; use --engine tokenizers") from None
        say(f"{difference}; the parts that {rendering.encoder.name} made are made again by tokenizers")
        store.drop(rendering.encoder.name)
        delete_tables(tokenizer)
        rendering, _ = prepare_render_context(job, tokenizer, say, "tokenizers")
        made, collector = _with_progress(job, store, rendering, None, ways, shard)
    if found := sum(one.state == "found" for one in made):
        say(f"{found:,} of {len(made):,} blocks were there")
    return collector


def _with_progress(
    job: PackJob,
    store: BlockCache,
    rendering: RenderContext,
    watch: ReferenceChecker | None,
    ways: BuildOptions,
    shard: Shard,
) -> tuple[list[MappedBlock], Collector]:
    freeze_heap()
    with _progress(job, "reading", shard.count) as shown, closing(watch) if watch else nullcontext():
        try:
            collector = Collector(store, job.data)
            take = collector.add if shard == ALL else lambda made: None
            made = make_blocks(
                job,
                store,
                rendering,
                num_workers=ways.num_workers,
                shard=shard,
                at=shown.at,
                take=take,
                watch=watch,
            )
            return made, collector
        except OSError as error:
            raise explained(error, store.folder) from error


def _progress(job: PackJob, what: str, shards: int = 1) -> AbstractContextManager[Progress]:
    return progress(what, None if job.streams else job.input_bytes // shards, "B")


def _joined(
    job: PackJob, tokenizer: Any, store: BlockCache, collector: Collector, out: Path, ways: BuildOptions
) -> PackManifest:
    talks, notes = collector.finish()
    with staging(out) as partial:
        manifest = assemble(job, tokenizer, talks, notes, partial, num_workers=ways.num_workers)
        check_unchanged(job.files)
        # The manifest goes last: a reader that finds it may trust every other file.
        write_atomic(partial / MANIFEST, manifest.to_json())
    trim(store.cache, talks.paths)
    return manifest
