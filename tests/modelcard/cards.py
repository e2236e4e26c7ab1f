"""Parse a model card: its sections, and the tables in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

Table = list[dict[str, str]]


@dataclass(frozen=True)
class ReadCard:
    """A parsed card."""

    card: ModelCard

    @property
    def header(self) -> dict[str, Any]:
        """What the Hub reads."""
        found: dict[str, Any] = self.card.data.to_dict()  # type: ignore[no-untyped-call]
        return found

    def section(self, title: str) -> str:
        """The text below a heading, up to the next one of its kind."""
        found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^\1 |\Z)", self.card.text, re.M | re.S)
        assert found, f"no section {title!r}"
        return found[2]

    def tables(self, title: str) -> list[Table]:
        """Every table of a section, by the names of its columns."""
        blocks = re.findall(r"(?:^\|.*\|\n?)+", self.section(title), re.M)
        return [_table(block) for block in blocks]

    def facts(self, title: str) -> dict[str, str]:
        """The rows of the section's tables of two columns."""
        rows = [row for table in self.tables(title) for row in table if set(row) == {"what", "value"}]
        return {row["what"]: row["value"] for row in rows}


def read_card(path: Path) -> ReadCard:
    return ReadCard(ModelCard.load(path))


def _table(block: str) -> Table:
    lines = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in block.splitlines()
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
