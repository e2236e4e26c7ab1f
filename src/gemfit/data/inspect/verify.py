"""``verify``: check the integrity of a pack from end to end.

Checks digests of files, invariants of rows, occurrences of every token of every conversation in the rows,
and all sums. About a gigabyte per second. Memory: some 60 bytes per conversation, and mapped pages of one
file of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemfit.core.progress import progress
from gemfit.data.inspect.decode_rows import file_problem, read_batches, reader_differences, unlisted_files
from gemfit.data.inspect.document_ids import DocumentLines, document_lines
from gemfit.data.inspect.ledger import Expected, TokenLedger
from gemfit.data.inspect.pack_files import SPLIT_NAMES, Conversations, Pack
from gemfit.data.inspect.row_check import RowFaults, Rules, check_rows
from gemfit.data.inspect.token_flow import (
    flow_of_conversations,
    manifest_differences,
    unbalanced_sources,
    wrong_totals,
)
from gemfit.data.pack.reader import open_pack, read_manifest
from gemfit.schemas.manifest import SplitCounts

MAX_PROBLEMS = 20
"""Problems of a check that are listed one by one."""


class PackCheck(NamedTuple):
    """The result of one check of a pack."""

    name: str
    checked: str
    """How much was checked."""
    problems: tuple[str, ...]


@dataclass(slots=True)
class _SplitSums:
    """Counts of the rows of a split."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    repeated_tokens: int = 0


def verify(folder: Path) -> list[PackCheck]:
    """Run all checks; a folder that is not a pack is a ``UserError``."""
    manifest = read_manifest(folder)
    total = sum(file.bytes for file in manifest.files)
    with progress("reading", total, "bytes") as bar:
        done = 0

        def read(size: int) -> None:
            nonlocal done
            done += size
            bar.at(done)

        damaged = [found for file in manifest.files if (found := file_problem(folder, file, read))]
    stray = [f"{folder / name}: is not in the manifest" for name in unlisted_files(folder, manifest)]
    files = PackCheck(
        "files", f"{len(manifest.files):,} files, {total:,} bytes", _shortened([*damaged, *stray])
    )
    if damaged:
        # The content of damaged files says nothing about the builder.
        return [files]
    pack = Pack(folder, manifest, Conversations(folder))
    return [files, *_check_content(pack)]


def _check_content(pack: Pack) -> Iterator[PackCheck]:
    documents, problems = document_lines(pack)
    yield PackCheck(
        "conversations",
        f"{len(pack.conversations):,} read, {len(documents.lines):,} packed",
        _shortened(problems),
    )
    if problems:
        return
    ledger = TokenLedger(_expected(pack, documents))
    counts, faults = {}, []
    for split in pack.manifest.splits:
        counts[split], found = _rows(pack, split, documents, ledger)
        faults += found
    rows = sum(count.rows for count in counts.values())
    yield PackCheck("rows", f"{rows:,} rows, {rows * pack.manifest.seq_len:,} places", _shortened(faults))
    yield PackCheck(
        "ledger",
        f"{ledger.trained.sum():,} trained tokens",
        _shortened(_miscounted_tokens(pack, documents, ledger)),
    )
    sums = list(_sums(pack, documents, ledger, counts))
    yield PackCheck("sums", f"{len(pack.manifest.flow):,} accounts of tokens", _shortened(sums))


def _rows(
    pack: Pack, split: str, documents: DocumentLines, ledger: TokenLedger
) -> tuple[_SplitSums, list[str]]:
    """Check every row of a split and add it to the ledger."""
    tokens = pack.conversations.tokens[documents.lines]
    side = pack.conversations.split[documents.lines]
    rules = Rules(
        pad_id=pack.manifest.pad_id,
        all_trained=pack.manifest.loss_on == "all",
        lengths=np.where(side == SPLIT_NAMES.index(split), tokens, 0).astype(np.int32),
    )
    faults, count, broken = RowFaults(split), _SplitSums(), list[str]()
    with progress(f"checking {split}", pack.manifest.splits[split].rows, "rows") as bar:
        for path in pack.shards(split):
            # Opened again for each file, to release the mapped pages of the one before.
            opened = open_pack(pack.folder, split)
            try:
                for batch in read_batches(path, count.rows):
                    trained = check_rows(batch, rules, faults)
                    ledger.add(batch, trained)
                    broken += reader_differences(opened, split, batch)
                    count.rows += len(batch.tokens)
                    count.documents += len(batch.lengths)
                    count.tokens += int(batch.tokens.sum(dtype=np.int64))
                    count.trained_tokens += int(trained.sum(dtype=np.int64))
                    count.repeated_tokens += int(batch.repeated.sum(dtype=np.int64))
                    bar.at(count.rows)
            except (OSError, ValueError) as error:
                broken.append(f"{path}: {error}")
    return count, [*broken, *faults.messages()]


def _expected(pack: Pack, documents: DocumentLines) -> Expected:
    conversations, lines = pack.conversations, documents.lines
    cut_off = conversations.truncated[lines]
    return Expected(
        tokens=conversations.tokens[lines],
        left_out=cut_off + conversations.untrained[lines],
        trained=conversations.trained[lines],
        cut_off=cut_off,
        copies=conversations.copies[lines],
    )


def _miscounted_tokens(pack: Pack, documents: DocumentLines, ledger: TokenLedger) -> Iterator[str]:
    """Conversations with a wrong number of occurrences of their tokens."""

    def place(document: int) -> str:
        return f"{pack.place(int(documents.lines[document]))} (document {document:,})"

    spans, missing = ledger.miscounted_spans()
    for found in spans:
        copies = int(pack.conversations.copies[documents.lines[found.document]])
        yield (
            f"{place(found.document)}: tokens {found.start:,} to {found.stop - 1:,} are expected in the rows "
            f"{_times(copies)}, and are there {_times(found.times)}"
        )
    for document in np.flatnonzero(missing < ledger.expected.left_out).tolist():
        yield (
            f"{place(document)}: {missing[document]:,} of its tokens are in no row, "
            f"expected {ledger.expected.left_out[document]:,}"
        )
    for document, what in ledger.wrong_trained_tokens():
        yield f"{place(document)}: {what}"


def _sums(
    pack: Pack, documents: DocumentLines, ledger: TokenLedger, counts: dict[str, _SplitSums]
) -> Iterator[str]:
    """Sums that should be equal but differ."""
    manifest = pack.manifest
    for split, count in counts.items():
        yield from _split_counts(split, manifest.splits[split], count, _conversations(pack, documents, split))
    source = pack.conversations.source[documents.lines]
    repeated = np.zeros(len(manifest.sources), np.int64)
    np.add.at(repeated, source, ledger.repeated)
    counted = flow_of_conversations(pack, repeated)
    yield from manifest_differences(manifest.flow, counted)
    yield from unbalanced_sources(manifest.flow)
    yield from wrong_totals(manifest.flow)
    in_rows = sum(count.tokens for count in counts.values())
    if in_rows != counted["total"].packed:
        yield f"the rows hold {in_rows:,} tokens, but the conversations {counted['total'].packed:,}"
    kept = int(pack.conversations.tokens[documents.lines].sum(dtype=np.int64))
    if manifest.roles and sum(manifest.roles.values()) != kept:
        yield f"roles add up to {sum(manifest.roles.values()):,} tokens, but the conversations to {kept:,}"
    yield from _line_counts(pack)


def _split_counts(
    split: str, in_manifest: SplitCounts, count: _SplitSums, conversations: int
) -> Iterator[str]:
    counted = {name: getattr(count, name) for name in _SplitSums.__dataclass_fields__}
    for name, number in (counted | {"conversations": conversations}).items():
        if (stated := getattr(in_manifest, name)) != number:
            yield f"splits.{split}.{name} is {stated:,} in the manifest, but {number:,} are counted"


def _conversations(pack: Pack, documents: DocumentLines, split: str) -> int:
    return int(np.count_nonzero(pack.conversations.split[documents.lines] == SPLIT_NAMES.index(split)))


def _line_counts(pack: Pack) -> Iterator[str]:
    losses, conversations = pack.manifest.losses, pack.conversations
    valid = losses.lines_read - losses.blank_lines - losses.rejected_lines - losses.untrained_lines
    if valid != len(conversations):
        count = len(conversations)
        yield f"losses: {valid:,} lines should be conversations, but {count:,} are"
    for name, stated in (
        ("duplicate", losses.duplicate_conversations),
        ("near_duplicate", losses.near_duplicate_conversations),
        ("left_by_weight", losses.left_by_weight_conversations),
        ("beyond_max_rows", losses.beyond_max_rows_conversations),
        ("overlong", losses.dropped_conversations),
        ("untrained", losses.untrained_conversations),
    ):
        if (number := int(np.count_nonzero(conversations.has_disposition(name)))) != stated:
            yield f"losses.{name}: {stated:,} conversations in the manifest, but {number:,} are counted"


def _shortened(problems: list[str] | Iterator[str]) -> tuple[str, ...]:
    """The first problems, and the number of others."""
    found = list(problems)
    more = [f"and {len(found) - MAX_PROBLEMS:,} more of this kind"] if len(found) > MAX_PROBLEMS else []
    return tuple(found[:MAX_PROBLEMS] + more)


def _times(number: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(number, f"{number:,} times")
