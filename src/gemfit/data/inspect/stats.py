"""``stats``: statistics of a pack, with a check of its token accounting.

Reads the table of conversations and the narrow columns of the rows, some 50 bytes per row.
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

from gemfit.data.inspect.lengths import quantiles
from gemfit.data.inspect.pack_files import Conversations, Pack, open_pack_files
from gemfit.data.inspect.stat_columns import StatColumns
from gemfit.data.inspect.stats_view import print_tables
from gemfit.data.inspect.token_flow import (
    flow_of_conversations,
    manifest_differences,
    unbalanced_sources,
    wrong_totals,
)
from gemfit.errors import ExitCode

_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,]*")


class Reason(NamedTuple):
    """A reason for rejected lines."""

    reason: str
    lines: int
    first: str
    """``path:line`` of the first."""


def stats(folder: Path, *, as_json: bool, plot: Path | None) -> ExitCode:
    """Print the statistics and optionally plot them; ``FAILED`` if tokens do not add up."""
    pack = open_pack_files(folder)
    columns = read_columns(pack)
    figures = collect(pack, columns)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    else:
        print_tables(figures)
    if plot is not None:
        # The import takes a second, and plots are rare.
        from gemfit.data.inspect.plots import draw  # noqa: PLC0415

        draw(figures, columns, plot)
    sys.stderr.write("".join(f"error: {folder}: {problem}\n" for problem in figures["problems"]))
    return ExitCode.FAILED if figures["problems"] else ExitCode.DONE


def read_columns(pack: Pack) -> StatColumns:
    """Read the columns for statistics and plots."""
    conversations = pack.conversations
    kept = np.flatnonzero(conversations.has_disposition("kept"))
    source = np.zeros(len(kept), np.int64)
    source[conversations.number[kept]] = conversations.source[kept]
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
    return StatColumns(conversations.tokens[kept], fill, documents, repeated)


def collect(pack: Pack, columns: StatColumns) -> dict[str, Any]:
    """All statistics as in the JSON, with wrong sums under ``problems``."""
    manifest, conversations = pack.manifest, pack.conversations
    flow = manifest.flow
    counted = flow_of_conversations(pack, columns.repeated)
    # A wrong sum is reported once, by the account that contains the error.
    problems = [*unbalanced_sources(flow), *wrong_totals(flow)] or list(manifest_differences(flow, counted))
    return {
        "pack": str(pack.folder),
        "seq_len": manifest.seq_len,
        "splits": {
            name: counts.model_dump() | {"fill": round(counts.fill(manifest.seq_len), 6)}
            for name, counts in manifest.splits.items()
        },
        "spread": {
            "tokens of a conversation": quantiles(columns.lengths),
            **{
                f"{what} of {split}": quantiles(values[split])
                for split in manifest.splits
                for what, values in (
                    ("fill of a row", columns.fill),
                    ("documents in a row", columns.documents),
                )
                if len(values[split])
            },
        },
        "dispositions": _dispositions(conversations),
        "losses": manifest.losses.model_dump(),
        "rejected": [reason._asdict() for reason in _rejected(pack.folder / "rejected.jsonl")],
        "also_in_validation": _entries(pack.folder / "also_in_validation.jsonl"),
        "roles": manifest.roles,
        "pii": manifest.pii,
        "flow": {name: one.model_dump() for name, one in flow.items()},
        "problems": problems,
    }


def _dispositions(conversations: Conversations) -> dict[str, dict[str, int]]:
    tokens, chosen = (
        conversations.tokens,
        {name: conversations.has_disposition(name) for name in conversations.dispositions},
    )
    return {
        name: {"conversations": int(np.count_nonzero(own)), "tokens": int(tokens[own].sum(dtype=np.int64))}
        for name, own in chosen.items()
    }


def _entries(path: Path) -> list[Any]:
    """All lines of a file that a pack may lack."""
    return [*map(orjson.loads, path.read_bytes().splitlines())] if path.is_file() else []


def _rejected(path: Path) -> Iterator[Reason]:
    """Reasons of rejected lines, the most frequent first."""
    if not path.is_file():
        return
    counts, firsts = Counter[str](), dict[str, tuple[str, str]]()
    with path.open("rb") as stream:
        for entry in map(orjson.loads, stream):
            # Reasons of one kind differ in the values that they name.
            kind = _VALUE.sub("…", entry["reason"])
            counts[kind] += 1
            firsts.setdefault(kind, (entry["reason"], entry["place"]))
    for kind, lines in counts.most_common():
        yield Reason(firsts[kind][0], lines, firsts[kind][1])
