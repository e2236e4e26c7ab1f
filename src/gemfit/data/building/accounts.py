"""What became of every conversation and every token: the tables and sums that a pack carries.

``conversations.arrow`` has a line for each valid conversation in input order. Sums are made twice, from
that table and from the rows, and have to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from gemfit.data.building.shards import SplitPlan, as_arrow
from gemfit.data.building.talks import Notes, Talks
from gemfit.data.content.choose import Choice, Fate
from gemfit.data.reading.conversation import ROLES
from gemfit.manifest import Losses, TokenFlow

CONVERSATIONS = "conversations.arrow"
REJECTED = "rejected.jsonl"
SCHEMA = pa.schema(
    [
        ("source", pa.int16()),
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("digest", pa.binary(16)),
        ("tokens", pa.int32()),
        ("trained", pa.int32()),
        ("fate", pa.dictionary(pa.int8(), pa.string())),
        ("number", pa.int64()),
        ("copies", pa.int32()),
        ("split", pa.int8()),
        ("truncated", pa.int32()),
        ("untrained", pa.int32()),
    ]
)
_BATCH = 2**16
_LOST_WHOLE = {
    "duplicate": Fate.DUPLICATE,
    "near_duplicate": Fate.NEAR_DUPLICATE,
    "left_by_weight": Fate.LEFT_BY_WEIGHT,
    "beyond_max_rows": Fate.BEYOND_MAX_ROWS,
    "overlong": Fate.OVERLONG,
}


def token_flow(
    talks: Talks, choice: Choice, source: NDArray[np.int16], names: Sequence[str], plans: Sequence[SplitPlan]
) -> dict[str, TokenFlow]:
    """The flow of each source and of all; ``ValueError`` if they do not add up, which is a bug.

    source: (conversations,), index into ``names``.
    """
    columns = _flow_columns(talks, choice, source, len(names), plans)
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
    talks: Talks, choice: Choice, source: NDArray[np.int16], count: int, plans: Sequence[SplitPlan]
) -> dict[str, NDArray[np.int64]]:
    def summed(values: NDArray[np.int32] | NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        # Weights of bincount are floats: exact up to 2**53 tokens.
        return np.bincount(source[chosen], weights=values[chosen], minlength=count).astype(np.int64)

    every = np.ones(len(talks), np.bool_)
    settled = (choice.fate == Fate.KEPT) | (choice.fate == Fate.UNTRAINED)
    bodies = talks.tokens.astype(np.int64) - talks.truncated - talks.untrained
    columns = {name: summed(talks.tokens, choice.fate == fate) for name, fate in _LOST_WHOLE.items()}
    columns |= {
        "tokens_read": summed(talks.tokens, every),
        "oversampled": summed(bodies * (choice.copies.astype(np.int64) - 1), choice.fate == Fate.KEPT),
        "truncated": summed(talks.truncated, settled),
        "untrained": summed(talks.untrained, settled),
        "packed": np.zeros(count, np.int64),
        "repeated": np.zeros(count, np.int64),
    }
    for plan in plans:
        owner = source[choice.order[plan.document]]
        context = talks.places.context[plan.first]
        columns["packed"] += np.bincount(owner, weights=plan.lengths, minlength=count).astype(np.int64)
        columns["repeated"] += np.bincount(owner, weights=context, minlength=count).astype(np.int64)
    return columns


def losses(
    talks: Talks, choice: Choice, notes: Notes, flow: TokenFlow, plans: Sequence[SplitPlan], seq_len: int
) -> Losses:
    """Counts of lines, conversations and pieces."""
    fates = np.bincount(choice.fate, minlength=len(Fate))
    kept = choice.fate == Fate.KEPT
    settled = kept | (choice.fate == Fate.UNTRAINED)
    long = talks.tokens > seq_len
    cut_off = talks.truncated > 0
    return Losses(
        lines_read=notes.lines,
        blank_lines=notes.blank,
        rejected_lines=notes.rejected,
        duplicate_conversations=int(fates[Fate.DUPLICATE]),
        near_duplicate_conversations=int(fates[Fate.NEAR_DUPLICATE]),
        left_by_weight_conversations=int(fates[Fate.LEFT_BY_WEIGHT]),
        beyond_max_rows_conversations=int(fates[Fate.BEYOND_MAX_ROWS]),
        split_conversations=int(np.count_nonzero(kept & long & ~cut_off)),
        repeated_tokens=flow.repeated,
        torn_pieces=sum(int(np.count_nonzero(talks.torn[plan.first])) for plan in plans),
        untrained_conversations=int(fates[Fate.UNTRAINED]),
        untrained_tokens=flow.untrained,
        truncated_conversations=int(np.count_nonzero(settled & cut_off)),
        truncated_tokens=flow.truncated,
        dropped_conversations=int(fates[Fate.OVERLONG]),
        dropped_tokens=flow.overlong,
    )


def role_tokens(talks: Talks, choice: Choice) -> dict[str, int]:
    """Tokens of each role in kept conversations, each counted once; ``control`` belongs to no turn."""
    kept = choice.fate == Fate.KEPT
    sums = talks.role_tokens[kept].sum(axis=0, dtype=np.int64).tolist()
    control = int(talks.tokens[kept].sum(dtype=np.int64)) - sum(sums)
    return dict(zip(ROLES, sums, strict=True)) | {"control": control}


def write_conversations(path: Path, talks: Talks, choice: Choice, source: NDArray[np.int16]) -> None:
    """The table of all conversations, as an Arrow stream."""
    numbers = choice.numbers()
    names = _strings([fate.name.lower() for fate in Fate])
    with path.open("wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for start in range(0, len(talks), _BATCH):
            here = slice(start, start + _BATCH)
            digests = pa.py_buffer(np.ascontiguousarray(talks.digests[here]).astype("<u8"))
            columns = [
                as_arrow(source[here]),
                as_arrow(talks.input[here]),
                as_arrow(talks.line[here]),
                pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(talks.tokens[here]), [None, digests]),
                as_arrow(talks.tokens[here]),
                as_arrow(talks.trained[here]),
                pa.DictionaryArray.from_arrays(as_arrow(choice.fate[here]), names),
                as_arrow(numbers[here]),
                as_arrow(choice.copies[here]),
                as_arrow(choice.split[here]),
                as_arrow(talks.truncated[here]),
                as_arrow(talks.untrained[here]),
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
        for input, line, reason in notes.rejections():
            entry = {"place": f"{inputs[input]}:{line}", "line": line, "reason": reason}
            sink.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
