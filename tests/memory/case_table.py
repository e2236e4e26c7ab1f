"""Tables of predicted and measured memory, case by case."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

MARK = "<!-- table -->\n"


def case_parser(description: str, cases: Sequence[str]) -> argparse.ArgumentParser:
    """Options of a script that compares predicted with measured memory, for ``show_results``."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=cases)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="write the table after the mark in this file")
    return parser


def show_results(
    results: Iterable[Any], markdown: Callable[[list[Any]], str], options: argparse.Namespace
) -> None:
    """Print the results, dataclasses with a ``case`` and a ``difference``, as JSON or as a table."""
    shown: list[Any] = []
    for result in results:
        shown.append(result)
        print(f"{result.case}: {result.difference:+.1%}", file=sys.stderr)
        if options.out:  # after each case, so that nothing is lost
            write_table(options.out, markdown(shown))
    if options.json:
        print(json.dumps([asdict(result) | {"difference": result.difference} for result in shown]))
    else:
        print(markdown(shown))


def write_table(file: Path, table: str) -> None:
    """Put ``table`` after the mark in ``file``, in place of what is there."""
    before, mark, _ = file.read_text().partition(MARK)
    file.write_text(before + mark + table)
