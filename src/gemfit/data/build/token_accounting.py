"""Token accounting: where every token and every conversation went, as sums and a table.

``conversations.arrow`` has a row per valid conversation in input order. Sums are made twice, from
that table and from the rows, and have to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from gemfit.data.build.conversation_table import ConversationTable, Notes
from gemfit.data.build.shards import SplitPlan, as_arrow
from gemfit.data.column_file import release_pages, slices
from gemfit.data.filter.selection import Disposition, Selection
from gemfit.data.jsonl.blocks import line_place
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.schemas.manifest import Losses, TokenFlow

REJECTED = "rejected.jsonl"
SCHEMA = pa.schema(
    [
        ("source", pa.int16()),
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("digest", pa.binary(16)),
        ("tokens", pa.int32()),
        ("trained", pa.int32()),
        ("disposition", pa.dictionary(pa.int8(), pa.string())),
        ("number", pa.int64()),
        ("copies", pa.int32()),
        ("split", pa.int8()),
        ("truncated", pa.int32()),
        ("untrained", pa.int32()),
    ]
)
_LOST_WHOLE = {
    "duplicate": Disposition.DUPLICATE,
    "near_duplicate": Disposition.NEAR_DUPLICATE,
    "left_by_weight": Disposition.LEFT_BY_WEIGHT,
    "beyond_max_rows": Disposition.BEYOND_MAX_ROWS,
    "overlong": Disposition.OVERLONG,
}


class ChunkSums(NamedTuple):
    """Sums over the chunks in the rows of a split."""

    packed: NDArray[np.int64]
    """(sources,): tokens."""
    repeated: NDArray[np.int64]
    """(sources,): those that are repeated context."""
    mid_message_cuts: int
    """Chunks that begin inside a message."""


def chunk_sums(
    table: ConversationTable, selection: Selection, source: NDArray[np.int16], count: int, plan: SplitPlan
) -> ChunkSums:
    """Sums over the chunks in the rows of a split, for ``count`` sources. source: (conversations,)."""
    packed, repeated, mid_message_cuts = np.zeros(count, np.int64), np.zeros(count, np.int64), 0
    for here in slices(len(plan.first)):
        owner = source[selection.order[plan.document[here]]]
        fragments = table.fragments[plan.first[here]]
        packed += _summed(owner, plan.lengths[here], count)
        repeated += _summed(owner, fragments["context"], count)
        mid_message_cuts += int(np.count_nonzero(fragments["mid_message"]))
        release_pages(table.fragments)
    return ChunkSums(packed, repeated, mid_message_cuts)


def token_flow(
    table: ConversationTable,
    selection: Selection,
    source: NDArray[np.int16],
    names: Sequence[str],
    sums_by_split: Sequence[ChunkSums],
) -> dict[str, TokenFlow]:
    """Token flow of each source and of the total; ``ValueError`` if it does not add up, which is a bug.

    source: (conversations,), index into ``names``. sums_by_split: of every split.
    """
    columns = _flow_columns(table, selection, source, len(names), sums_by_split)
    total = {"total": {name: int(sums.sum()) for name, sums in columns.items()}}
    each = {
        source_name: {name: int(sums[number]) for name, sums in columns.items()}
        for number, source_name in enumerate(names)
    }
    flow = {name: TokenFlow(**counts) for name, counts in (each | total).items()}
    for name, one in flow.items():
        if one.balance:
            raise ValueError(f"the tokens of {name} do not add up, by {one.balance}: {one}")
    return flow


def _flow_columns(
    table: ConversationTable,
    selection: Selection,
    source: NDArray[np.int16],
    count: int,
    sums_by_split: Sequence[ChunkSums],
) -> dict[str, NDArray[np.int64]]:
    sums = {name: np.zeros(count, np.int64) for name in TokenFlow.model_fields}
    for here in table.slices():
        owner, disposition, tokens = source[here], selection.disposition[here], table.tokens[here]
        truncated, untrained = table.truncated[here], table.untrained[here]
        is_placed = (disposition == Disposition.KEPT) | (disposition == Disposition.UNTRAINED)
        again = (tokens.astype(np.int64) - truncated - untrained) * (
            selection.copies[here].astype(np.int64) - 1
        )
        for name, lost in _LOST_WHOLE.items():
            sums[name] += _summed(owner, tokens, count, disposition == lost)
        sums["tokens_read"] += _summed(owner, tokens, count)
        sums["oversampled"] += _summed(owner, again, count, disposition == Disposition.KEPT)
        sums["truncated"] += _summed(owner, truncated, count, is_placed)
        sums["untrained"] += _summed(owner, untrained, count, is_placed)
    for sums_of_split in sums_by_split:
        sums["packed"] += sums_of_split.packed
        sums["repeated"] += sums_of_split.repeated
    return sums


def _summed(
    owner: NDArray[np.int16], values: NDArray[Any], count: int, chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Sums of values by owner: (count,)."""
    if chosen is not None:
        owner, values = owner[chosen], values[chosen]
    # Weights of bincount are floats: exact up to 2**53 tokens.
    return np.bincount(owner, weights=values, minlength=count).astype(np.int64)


def losses(
    table: ConversationTable,
    selection: Selection,
    notes: Notes,
    flow: TokenFlow,
    sums_by_split: Sequence[ChunkSums],
    seq_len: int,
    also_in_validation: int,
) -> Losses:
    """Counts of lines, conversations and chunks."""
    dispositions = np.zeros(len(Disposition), np.int64)
    split = truncated = 0
    for here in table.slices():
        disposition, cut_off = selection.disposition[here], table.truncated[here] > 0
        dispositions += np.bincount(disposition, minlength=len(Disposition))
        is_kept = disposition == Disposition.KEPT
        split += int(np.count_nonzero(is_kept & (table.tokens[here] > seq_len) & ~cut_off))
        truncated += int(np.count_nonzero((is_kept | (disposition == Disposition.UNTRAINED)) & cut_off))
    return Losses(
        lines_read=notes.lines,
        blank_lines=notes.blank,
        rejected_lines=notes.rejected,
        untrained_lines=notes.untrained,
        empty_messages=notes.empty_messages,
        duplicate_conversations=int(dispositions[Disposition.DUPLICATE]),
        near_duplicate_conversations=int(dispositions[Disposition.NEAR_DUPLICATE]),
        also_in_validation=also_in_validation,
        left_by_weight_conversations=int(dispositions[Disposition.LEFT_BY_WEIGHT]),
        beyond_max_rows_conversations=int(dispositions[Disposition.BEYOND_MAX_ROWS]),
        split_conversations=split,
        repeated_tokens=flow.repeated,
        mid_message_cuts=sum(sums_of_split.mid_message_cuts for sums_of_split in sums_by_split),
        untrained_conversations=int(dispositions[Disposition.UNTRAINED]),
        untrained_tokens=flow.untrained,
        truncated_conversations=truncated,
        truncated_tokens=flow.truncated,
        dropped_conversations=int(dispositions[Disposition.OVERLONG]),
        dropped_tokens=flow.overlong,
    )


def role_tokens(table: ConversationTable, selection: Selection) -> dict[str, int]:
    """Tokens of each role in kept conversations, each counted once; ``control`` belongs to no turn."""
    sums, total = np.zeros(len(ROLES), np.int64), 0
    for here in table.slices():
        is_kept = selection.disposition[here] == Disposition.KEPT
        sums += table.role_tokens[here][is_kept].sum(axis=0, dtype=np.int64)
        total += int(table.tokens[here][is_kept].sum(dtype=np.int64))
    return dict(zip(ROLES, sums.tolist(), strict=True)) | {"control": total - int(sums.sum())}


def write_conversations(
    path: Path, table: ConversationTable, selection: Selection, source: NDArray[np.int16]
) -> None:
    """The table of all conversations, as an Arrow stream."""
    numbers = selection.numbers()
    names = _strings([disposition.name.lower() for disposition in Disposition])
    with path.open("wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for here in table.slices():
            digests = pa.py_buffer(np.ascontiguousarray(table.digests[here]).astype("<u8"))
            columns = [
                as_arrow(source[here]),
                as_arrow(table.inputs(np.arange(here.start, here.stop))),
                as_arrow(table.line[here]),
                pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), here.stop - here.start, [None, digests]),
                as_arrow(table.tokens[here]),
                as_arrow(table.trained[here]),
                pa.DictionaryArray.from_arrays(as_arrow(selection.disposition[here]), names),
                as_arrow(numbers[here].astype(np.int64)),
                as_arrow(selection.copies[here]),
                as_arrow(selection.split[here]),
                as_arrow(table.truncated[here]),
                as_arrow(table.untrained[here]),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def _strings(values: Sequence[str]) -> pa.Array:
    """As ``as_arrow``, for texts in ASCII."""
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(values), pa.py_buffer(ends), pa.py_buffer("".join(values).encode())
    )


def write_rejected(path: Path, notes: Notes, inputs: Sequence[str]) -> None:
    """JSON lines with ``place``, ``line`` and ``reason``; no file where no line was rejected."""
    if not notes.rejected:
        return
    with path.open("wb") as sink:
        for block, line, reason in notes.rejections():
            place = line_place(inputs[block.input], line, in_array=block.in_array)
            entry = {"place": place, "line": line, "reason": reason}
            sink.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
