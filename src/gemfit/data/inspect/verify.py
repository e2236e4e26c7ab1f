"""``verify``: read a pack from end to end and prove what it says of itself.

Files against their digests; rows against what has to hold in each; every token of every conversation
against the number of times it should be in the rows; all sums against each other. Costs about a
gigabyte a second. Memory: some 60 bytes a conversation, and mapped pages of one file of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemfit.core.progress import progress
from gemfit.data.inspect.decode_rows import damage, found_otherwise, read_batches, unlisted
from gemfit.data.inspect.document_ids import DocumentLines, number_conversations
from gemfit.data.inspect.ledger import Expected, TokenLedger
from gemfit.data.inspect.pack_files import SIDES, Conversations, Pack
from gemfit.data.inspect.row_check import RowFaults, Rules, check_rows
from gemfit.data.inspect.token_flow import differing, flow_of_conversations, unbalanced, untotalled
from gemfit.data.pack.reader import open_pack, read_manifest
from gemfit.schemas.manifest import SplitCounts

MOST = 20
"""Problems of a kind that are told one by one."""


class Proof(NamedTuple):
    """One thing that was looked at, and what came out."""

    what: str
    seen: str
    """How much was looked at."""
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Split:
    """What was counted in the rows of a split."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    repeated_tokens: int = 0


def verify(folder: Path) -> list[Proof]:
    """Everything that could be proven, and every problem; a folder that is no pack is a ``UserError``."""
    manifest = read_manifest(folder)
    total = sum(file.bytes for file in manifest.files)
    damaged = []
    with progress("reading", total, "bytes") as shown:
        done = 0

        def read(size: int) -> None:
            nonlocal done
            done += size
            shown.at(done)

        damaged = [found for file in manifest.files if (found := damage(folder, file, read))]
    stray = [f"{folder / name}: is not in the manifest" for name in unlisted(folder, manifest)]
    files = Proof("files", f"{len(manifest.files):,} files, {total:,} bytes", _told([*damaged, *stray]))
    if damaged:
        # What is in damaged files says nothing of the builder: there is no more to prove.
        return [files]
    pack = Pack(folder, manifest, Conversations(folder))
    return [files, *_content(pack)]


def _content(pack: Pack) -> Iterator[Proof]:
    numbering, problems = number_conversations(pack)
    yield Proof(
        "conversations", f"{len(pack.conversations):,} read, {len(numbering.lines):,} packed", _told(problems)
    )
    if problems:
        return
    ledger = TokenLedger(_expected(pack, numbering))
    counts, faults = {}, []
    for split in pack.manifest.splits:
        counts[split], found = _rows(pack, split, numbering, ledger)
        faults += found
    rows = sum(count.rows for count in counts.values())
    yield Proof("rows", f"{rows:,} rows, {rows * pack.manifest.seq_len:,} places", _told(faults))
    yield Proof("ledger", f"{ledger.trained.sum():,} trained tokens", _told(_once(pack, numbering, ledger)))
    sums = list(_sums(pack, numbering, ledger, counts))
    yield Proof("sums", f"{len(pack.manifest.flow):,} accounts of tokens", _told(sums))


def _rows(pack: Pack, split: str, numbering: DocumentLines, ledger: TokenLedger) -> tuple[_Split, list[str]]:
    """Check and enter every row of a split."""
    tokens = pack.conversations.tokens[numbering.lines]
    side = pack.conversations.split[numbering.lines]
    rules = Rules(
        pad_id=pack.manifest.pad_id,
        all_trained=pack.manifest.loss_on == "all",
        lengths=np.where(side == SIDES.index(split), tokens, 0).astype(np.int32),
    )
    faults, count, broken = RowFaults(split), _Split(), list[str]()
    with progress(f"checking {split}", pack.manifest.splits[split].rows, "rows") as shown:
        for path in pack.shards(split):
            # Opened anew for each file: what was looked at of the one before is let go.
            opened = open_pack(pack.folder, split)
            try:
                for batch in read_batches(path, count.rows):
                    trained = check_rows(batch, rules, faults)
                    ledger.add(batch, trained)
                    broken += found_otherwise(opened, split, batch)
                    count.rows += len(batch.tokens)
                    count.documents += len(batch.lengths)
                    count.tokens += int(batch.tokens.sum(dtype=np.int64))
                    count.trained_tokens += int(trained.sum(dtype=np.int64))
                    count.repeated_tokens += int(batch.repeated.sum(dtype=np.int64))
                    shown.at(count.rows)
            except (OSError, ValueError) as error:
                broken.append(f"{path}: {error}")
    return count, [*broken, *faults.messages()]


def _expected(pack: Pack, numbering: DocumentLines) -> Expected:
    talks, lines = pack.conversations, numbering.lines
    cut_off = talks.truncated[lines]
    return Expected(
        tokens=talks.tokens[lines],
        left_out=cut_off + talks.untrained[lines],
        trained=talks.trained[lines],
        cut_off=cut_off,
        copies=talks.copies[lines],
    )


def _once(pack: Pack, numbering: DocumentLines, ledger: TokenLedger) -> Iterator[str]:
    """Conversations whose tokens are not in the rows as often as they should be."""

    def place(document: int) -> str:
        return f"{pack.place(int(numbering.lines[document]))} (document {document:,})"

    stretches, missing = ledger.stretches()
    for found in stretches:
        copies = int(pack.conversations.copies[numbering.lines[found.document]])
        yield (
            f"{place(found.document)}: tokens {found.start:,} to {found.stop - 1:,} are expected in the rows "
            f"{_times(copies)}, and are there {_times(found.times)}"
        )
    for document in np.flatnonzero(missing < ledger.expected.left_out).tolist():
        yield (
            f"{place(document)}: {missing[document]:,} of its tokens are in no row, "
            f"expected {ledger.expected.left_out[document]:,}"
        )
    for document, what in ledger.miscounted():
        yield f"{place(document)}: {what}"


def _sums(
    pack: Pack, numbering: DocumentLines, ledger: TokenLedger, counts: dict[str, _Split]
) -> Iterator[str]:
    """Sums that should be equal and are not."""
    manifest = pack.manifest
    for split, count in counts.items():
        yield from _split_counts(split, manifest.splits[split], count, _conversations(pack, numbering, split))
    source = pack.conversations.source[numbering.lines]
    repeated = np.zeros(len(manifest.sources), np.int64)
    np.add.at(repeated, source, ledger.repeated)
    counted = flow_of_conversations(pack, repeated)
    yield from differing(manifest.flow, counted)
    yield from unbalanced(manifest.flow)
    yield from untotalled(manifest.flow)
    in_rows = sum(count.tokens for count in counts.values())
    if in_rows != counted["total"].packed:
        yield f"the rows hold {in_rows:,} tokens, but the conversations {counted['total'].packed:,}"
    kept = int(pack.conversations.tokens[numbering.lines].sum(dtype=np.int64))
    if manifest.roles and sum(manifest.roles.values()) != kept:
        yield f"roles add up to {sum(manifest.roles.values()):,} tokens, but the conversations to {kept:,}"
    yield from _line_counts(pack)


def _split_counts(split: str, said: SplitCounts, count: _Split, conversations: int) -> Iterator[str]:
    counted = {name: getattr(count, name) for name in _Split.__dataclass_fields__}
    for name, number in (counted | {"conversations": conversations}).items():
        if (stated := getattr(said, name)) != number:
            yield f"splits.{split}.{name} is {stated:,} in the manifest, but {number:,} are counted"


def _conversations(pack: Pack, numbering: DocumentLines, split: str) -> int:
    return int(np.count_nonzero(pack.conversations.split[numbering.lines] == SIDES.index(split)))


def _line_counts(pack: Pack) -> Iterator[str]:
    losses, talks = pack.manifest.losses, pack.conversations
    valid = losses.lines_read - losses.blank_lines - losses.rejected_lines
    if valid != len(talks):
        yield f"losses: {valid:,} lines were neither blank nor rejected, but {len(talks):,} are conversations"
    for name, said in (
        ("duplicate", losses.duplicate_conversations),
        ("near_duplicate", losses.near_duplicate_conversations),
        ("left_by_weight", losses.left_by_weight_conversations),
        ("beyond_max_rows", losses.beyond_max_rows_conversations),
        ("overlong", losses.dropped_conversations),
        ("untrained", losses.untrained_conversations),
    ):
        if (number := int(np.count_nonzero(talks.has_disposition(name)))) != said:
            yield f"losses.{name}: {said:,} conversations in the manifest, but {number:,} are counted"


def _told(problems: list[str] | Iterator[str]) -> tuple[str, ...]:
    """The first problems, and how many more there are."""
    found = list(problems)
    more = [f"and {len(found) - MOST:,} more of this kind"] if len(found) > MOST else []
    return tuple(found[:MOST] + more)


def _times(number: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(number, f"{number:,} times")
