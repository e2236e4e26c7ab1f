"""``stats``: the figures of a pack, and whether its tokens add up.

Reads the table of conversations and the narrow columns of the rows: some 50 bytes a row.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from gemfit.data.inspect.lengths import spread
from gemfit.data.inspect.pack_files import Conversations, Pack, open_evidence
from gemfit.data.inspect.stat_columns import StatColumns
from gemfit.data.inspect.stats_view import show
from gemfit.data.inspect.token_flow import differing, flow_of_conversations, unbalanced, untotalled
from gemfit.errors import ExitCode

_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,]*")


class Reason(NamedTuple):
    """Why lines were rejected: one kind of mistake."""

    reason: str
    lines: int
    first: str
    """Place of the first."""


def stats(folder: Path, *, as_json: bool, plot: Path | None) -> ExitCode:
    """Print the figures, draw them if asked; ``FAILED`` where tokens do not add up."""
    pack = open_evidence(folder)
    columns = read_columns(pack)
    figures = collect(pack, columns)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    else:
        show(figures)
    if plot is not None:
        # A second of imports, wanted by few.
        from gemfit.data.inspect.plots import draw  # noqa: PLC0415

        draw(figures, columns, plot)
    sys.stderr.write("".join(f"error: {folder}: {problem}\n" for problem in figures["problems"]))
    return ExitCode.FAILED if figures["problems"] else ExitCode.DONE


def read_columns(pack: Pack) -> StatColumns:
    """Read what the figures need."""
    talks = pack.conversations
    kept = np.flatnonzero(talks.has_disposition("kept"))
    source = np.zeros(len(kept), np.int64)
    source[talks.number[kept]] = talks.source[kept]
    repeated = np.zeros(len(pack.manifest.sources), np.int64)
    fill, documents = {}, {}
    for split in pack.manifest.splits:
        tokens, chunks = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for batch in pack.batches(split):
            tokens.append(batch.tokens)
            chunks.append(np.diff(batch.ends))
            np.add.at(repeated, source[batch.document], batch.repeated)
        fill[split] = np.concatenate(tokens) / pack.manifest.seq_len
        documents[split] = np.concatenate(chunks)
    return StatColumns(talks.tokens[kept], fill, documents, repeated)


def collect(pack: Pack, columns: StatColumns) -> dict[str, Any]:
    """All figures as JSON has them, and under ``problems`` the sums that are wrong."""
    manifest, talks = pack.manifest, pack.conversations
    flow = manifest.flow
    counted = flow_of_conversations(pack, columns.repeated)
    # A sum that is wrong is named once, by the account in which it goes wrong.
    problems = [*unbalanced(flow), *untotalled(flow)] or list(differing(flow, counted))
    return {
        "pack": str(pack.folder),
        "seq_len": manifest.seq_len,
        "splits": {
            name: counts.model_dump() | {"fill": round(counts.fill(manifest.seq_len), 6)}
            for name, counts in manifest.splits.items()
        },
        "spread": {
            "tokens of a conversation": spread(columns.lengths),
            **{
                f"{what} of {split}": spread(values[split])
                for split in manifest.splits
                for what, values in (
                    ("fill of a row", columns.fill),
                    ("documents in a row", columns.documents),
                )
                if len(values[split])
            },
        },
        "fates": _dispositions(talks),
        "losses": manifest.losses.model_dump(),
        "rejected": [reason._asdict() for reason in _rejected(pack.folder / "rejected.jsonl")],
        "roles": manifest.roles,
        "pii": manifest.pii,
        "flow": {name: one.model_dump() for name, one in flow.items()},
        "problems": problems,
    }


def _dispositions(talks: Conversations) -> dict[str, dict[str, int]]:
    tokens, chosen = talks.tokens, {name: talks.has_disposition(name) for name in talks.dispositions}
    return {
        name: {"conversations": int(np.count_nonzero(own)), "tokens": int(tokens[own].sum(dtype=np.int64))}
        for name, own in chosen.items()
    }


def _rejected(path: Path) -> Iterator[Reason]:
    """Why lines were rejected, the most frequent reason first."""
    if not path.is_file():
        return
    counts, firsts = Counter[str](), dict[str, tuple[str, str]]()
    with path.open("rb") as stream:
        for entry in map(orjson.loads, stream):
            # Mistakes of a kind differ in the values that they name.
            kind = _VALUE.sub("…", entry["reason"])
            counts[kind] += 1
            firsts.setdefault(kind, (entry["reason"], entry["place"]))
    for kind, lines in counts.most_common():
        yield Reason(firsts[kind][0], lines, firsts[kind][1])
