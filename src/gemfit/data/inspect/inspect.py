"""``inspect``: print rows of a pack as text or JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import orjson
from rich.console import Console
from rich.text import Text

from gemfit.core.plain_console import PlainConsole
from gemfit.data.inspect.annotate import AnnotatedRow, RowAnnotator
from gemfit.data.inspect.pack_files import Pack, open_pack_files
from gemfit.data.inspect.roles import make_control_tokens
from gemfit.data.inspect.row_view import ViewOptions, legend, print_row
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.errors import UserError

WIDTH = 100


def inspect(
    folder: Path,
    *,
    rows: str = "0",
    split: str = "train",
    document: int | None = None,
    as_json: bool = False,
    whole: bool = False,
    no_color: bool = False,
) -> None:
    """Show rows ``rows`` of ``split`` (`7`, `0-9` or `all`), or those that hold ``document``.

    JSON is one row per line. A missing row, split or document is a ``UserError``.
    """
    pack = open_pack_files(folder)
    wanted = parse_rows(rows, pack, split) if document is None else range(0)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    control = make_control_tokens(tokenizer, pack.manifest.format, pack.manifest.eos)
    annotator = RowAnnotator(pack, control)
    found = annotator.rows(split, wanted) if document is None else annotator.document(document)
    if as_json:
        for row in found:
            sys.stdout.buffer.write(orjson.dumps(row.to_json(tokenizer), option=orjson.OPT_APPEND_NEWLINE))
        return
    console = _console(no_color)
    plain = no_color or console.no_color or not console.is_terminal
    _show(found, ViewOptions(tokenizer, plain=plain, whole=whole), console)


def parse_rows(text: str, pack: Pack, split: str) -> range:
    """Row numbers of ``text``: one, a range `first-last`, or `all`."""
    num_rows = count_rows(pack, split)
    if text == "all":
        return range(num_rows)
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise UserError(f"--row {text}: is not the number of a row; write 7, 0-9 or all")
    wanted = range(int(first), int(last or first) + 1)
    if not wanted:
        raise UserError(f"--row {text}: ends before it begins; write {last}-{first}")
    if wanted[-1] >= num_rows:
        there = f"rows 0 to {num_rows - 1:,}" if num_rows else "no row"
        raise UserError(f"--row {text}: {pack.folder} has {there} of {split}")
    return wanted


def count_rows(pack: Pack, split: str) -> int:
    """Number of rows of a split; a missing split is a ``UserError``."""
    if split not in pack.manifest.splits:
        raise UserError(f"{pack.folder}: has no split {split!r}; it has {', '.join(pack.manifest.splits)}")
    return pack.manifest.splits[split].rows


def _show(rows: Iterable[AnnotatedRow], options: ViewOptions, console: Console) -> None:
    # Full output may be long, so a terminal shows it in a pager.
    paged = (
        console.pager(styles=not options.plain) if options.whole and console.is_terminal else nullcontext()
    )
    with paged:
        for row in rows:
            print_row(row, options, console)
            console.print()
        console.print(Text(legend(options), style="dim"), soft_wrap=True)


def _console(no_color: bool) -> PlainConsole:
    console = PlainConsole(no_color=no_color or None)
    if console.is_terminal:
        return console
    return PlainConsole(width=WIDTH)
