"""Stream conversations from a ``datasets`` source with a ``messages`` column.

Nothing is downloaded whole: rows arrive as they are asked for. A local folder of Parquet or JSON
files is such a source too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import load_dataset

from gemfit.data.conversation import Conversation, parse_conversation
from gemfit.data.read import Tally
from gemfit.errors import UserError
from gemfit.recipe import DataRecipe


def read_hub(data: DataRecipe, tally: Tally) -> Iterator[Conversation]:
    """Every valid row as a conversation, placed at ``NAME:row`` (rows count from 1)."""
    assert data.source is not None
    name = data.source.removeprefix("hf:")
    for number, row in _rows(name, data):
        tally.lines += 1
        place = f"{name}:{number}"
        try:
            conversation = parse_conversation(row, place)
        except UserError as error:
            tally.guard(error, place)
            continue
        yield conversation


def _rows(name: str, data: DataRecipe) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        stream = load_dataset(name, data.hf_config, split=data.hf_split, streaming=True)
        for row in stream:
            number += 1
            yield number, row
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"hf:{name}:{number + 1}: cannot be read (config {data.hf_config}, split {data.hf_split}): "
            f"{first}; check data.source, data.hf_config, data.hf_split and the network"
        ) from None
