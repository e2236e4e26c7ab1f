"""Tables of a pack from its manifest: splits, roles, and what was filtered."""

from __future__ import annotations

from gemfit.schemas.manifest import PackManifest
from gemfit.summary.text_table import TextTable


def split_table(pack: PackManifest) -> TextTable:
    """Counts of each split."""
    rows = tuple(
        (
            name,
            *(f"{n:,}" for n in (s.conversations, s.rows, s.documents, s.tokens, s.trained_tokens)),
            f"{s.fill(pack.seq_len):.2%}",
        )
        for name, s in pack.splits.items()
    )
    heads = ("split", "conversations", "rows", "chunks", "tokens", "trained tokens", "fill")
    return TextTable("Splits", heads, rows)


def filtered(pack: PackManifest) -> list[tuple[str, str]]:
    """Conversations and tokens that were read, dropped, split or repeated."""
    counted: dict[str, int] = pack.losses.model_dump()
    return [(name.replace("_", " "), f"{count:,}") for name, count in counted.items() if count]
