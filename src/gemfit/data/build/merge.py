"""Assembly of a pack from the conversation table: select, plan rows, write, account."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gemfit
from gemfit.core.progress import progress
from gemfit.data.build.conversation_table import ConversationTable, Notes
from gemfit.data.build.malloc import trim_heap
from gemfit.data.build.nothing_to_train import nothing_to_train
from gemfit.data.build.row_plan import SPLITS, plan_split
from gemfit.data.build.shards import Source, SplitPlan
from gemfit.data.build.token_accounting import (
    REJECTED,
    ChunkSums,
    chunk_sums,
    losses,
    role_tokens,
    token_flow,
    write_conversations,
    write_rejected,
)
from gemfit.data.build.validation_overlaps import OVERLAPS, write_overlaps
from gemfit.data.build.write_rows import write_rows
from gemfit.data.filter.select_conversations import select_conversations
from gemfit.data.filter.selection import (
    TRAIN,
    VALIDATION,
    Disposition,
    Selection,
    SelectionInput,
    also_in_validation,
    within_max_rows,
)
from gemfit.data.jsonl.inputs import inputs_of
from gemfit.data.jsonl.message_batch import Ints
from gemfit.data.pack.reader import CONVERSATIONS, file_digest
from gemfit.data.tokenize.file_tokenizer import tokenizer_digest_of
from gemfit.data.tokenize.tokenizer import pad_id, save_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.manifest import FileDigest, PackInput, PackManifest, PackSource, SplitCounts
from gemfit.schemas.pack_job import PackJob

LIBRARIES = ("datasets", "numpy", "pyarrow", "tokenizers", "transformers")


def assemble(
    job: PackJob, tokenizer: Any, table: ConversationTable, notes: Notes, folder: Path, *, num_workers: int
) -> PackManifest:
    """Write all files but the manifest into ``folder``, and return the manifest."""
    sources = _sources_of(job, table)
    in_validation = np.array([source.is_validation for source in job.sources])[sources]
    selection = _choose(job, table, sources)
    _check_enough(job, table, selection, notes)
    seq_len, tight = job.data.seq_len, job.data.overlong == "cut"
    plans = [plan_split(table, selection, split, seq_len, tight=tight) for split in range(len(SPLITS))]
    sums_by_split = [chunk_sums(table, selection, sources, len(job.sources), plan) for plan in plans]
    flow = token_flow(table, selection, sources, _names(job), sums_by_split)
    source = Source(fragments=table.fragments, paths=table.paths, seq_len=seq_len, pad=pad_id(tokenizer))
    trim_heap()
    with progress("writing", sum(plan.num_rows for plan in plans), "rows") as shown:
        shards, trained = write_rows(
            folder, plans, source, fingerprint=job.fingerprint, num_workers=num_workers, on_progress=shown.at
        )
    save_tokenizer(tokenizer, folder / "tokenizer")
    write_conversations(folder / CONVERSATIONS, table, selection, sources)
    inputs = [one.path for one in inputs_of(job)]
    write_rejected(folder / REJECTED, notes, inputs)
    copies = also_in_validation(selection, in_validation)
    write_overlaps(folder / OVERLAPS, table, selection, copies, inputs)
    data = job.data
    return PackManifest(
        fingerprint=job.fingerprint,
        tokenizer_digest=tokenizer_digest_of(tokenizer),
        format=data.format,
        eos=data.eos,
        loss_on=data.loss_on,
        seq_len=seq_len,
        overlong=data.overlong,
        pad_id=pad_id(tokenizer),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        splits={
            plan.name: _counts(plan, sums, trained[plan.name])
            for plan, sums in zip(plans, sums_by_split, strict=True)
        },
        losses=losses(table, selection, notes, flow["total"], sums_by_split, seq_len, len(copies)),
        flow=flow,
        roles=role_tokens(table, selection),
        forms=notes.forms,
        pii=notes.pii,
        sources=tuple(
            PackSource(name=source.name, weight=source.weight, is_validation=source.is_validation)
            for source in job.sources
        ),
        inputs=_inputs_of(job, table),
        engine=", ".join(notes.engines),
        files=_digests(folder, shards),
        versions={"gemfit": gemfit.__version__, **{name: version(name) for name in LIBRARIES}},
    )


def _inputs_of(job: PackJob, table: ConversationTable) -> tuple[PackInput, ...]:
    """The inputs, as their blocks were read."""
    arrays = table.array_inputs()
    return tuple(
        one.model_copy(update={"in_array": True}) if index in arrays else one
        for index, one in enumerate(inputs_of(job))
    )


def _names(job: PackJob) -> list[str]:
    return [source.name for source in job.sources]


def _sources_of(job: PackJob, table: ConversationTable) -> NDArray[np.int16]:
    """The source of each conversation."""
    by_input = np.array([one.source for one in inputs_of(job)], np.int16)
    sources = np.empty(len(table), np.int16)
    for here in table.slices():
        sources[here] = by_input[table.inputs(np.arange(here.start, here.stop))]
    return sources


def _dispositions(table: ConversationTable) -> NDArray[np.int8]:
    """Dispositions before selection: kept, overlong, or without trained tokens: (conversations,)."""
    dispositions = np.empty(len(table), np.int8)
    for here in table.slices():
        before = table.fragment_ends[here.start - 1 : here.start]
        whole = np.diff(table.fragment_ends[here], prepend=before if here.start else 0) > 0
        lost = np.where(table.dropped[here] > 0, Disposition.OVERLONG, Disposition.UNTRAINED)
        dispositions[here] = np.where(whole, Disposition.KEPT, lost)
    return dispositions


def _choose(job: PackJob, table: ConversationTable, sources: NDArray[np.int16]) -> Selection:
    candidates = SelectionInput(
        digests=table.digests,
        normalized_hashes=table.normalized_hashes,
        signatures=table.signatures,
        source=sources,
        disposition=_dispositions(table),
    )
    selection = select_conversations(candidates, job.data, job.seed)
    table.signatures.close()
    if job.data.max_rows is None:
        return selection
    seq_len, tight = job.data.seq_len, job.data.overlong == "cut"
    return within_max_rows(
        selection,
        job.data.max_rows,
        lambda some: plan_split(table, some, TRAIN, seq_len, tight=tight).num_rows,
        keep_validation=bool(job.data.validation),
    )


def _check_enough(job: PackJob, table: ConversationTable, selection: Selection, notes: Notes) -> None:
    named = ", ".join(_names(job))
    if not len(table):
        raise UserError(
            f"{named}: holds no valid conversation: of {notes.lines} lines {notes.blank} are blank and "
            f"{notes.rejected} were rejected"
        )
    if job.data.validation and not np.any(selection.split == VALIDATION):
        validation = ", ".join(source.name for source in job.sources if source.is_validation)
        raise UserError(f"{validation}: data.validation holds no conversation that can be packed")
    if not np.any(selection.split == TRAIN):
        raise UserError(f"{named}: {nothing_to_train(selection, job.data)}")


def _counts(plan: SplitPlan, sums: ChunkSums, trained: int) -> SplitCounts:
    return SplitCounts(
        rows=plan.num_rows,
        conversations=_distinct(plan.document),
        documents=len(plan.document),
        tokens=int(sums.packed.sum()),
        trained_tokens=trained,
        repeated_tokens=int(sums.repeated.sum()),
    )


def _distinct(documents: Ints) -> int:
    """The number of distinct values."""
    there = np.zeros(int(documents.max()) + 1 if len(documents) else 0, np.bool_)
    there[documents] = True
    return int(np.count_nonzero(there))


def _digests(folder: Path, shards: Sequence[FileDigest]) -> tuple[FileDigest, ...]:
    """Digests of every file of the pack, sorted by path; those of the shards are known already."""
    known = {shard.path: shard for shard in shards}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        known.get(path.relative_to(folder).as_posix()) or file_digest(folder, path) for path in paths
    )
