"""``python -m gemfit.data.inspect.skip PACK DOCUMENT...``: what training without conversations leaves out.

A line for each: its file and line, trained tokens and rows. Exit status 0, or 2 with ``error: …`` on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gemfit.data.inspect.document_ids import document_lines
from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.inspect.skipped_documents import RowsWithSkips
from gemfit.errors import ExitCode, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options, print the lines."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.data.inspect.skip")
    parser.add_argument("pack", type=Path)
    parser.add_argument("documents", type=int, nargs="+")
    options = parser.parse_args(argv)
    try:
        sys.stdout.writelines(f"{line}\n" for line in describe_skips(options.pack, options.documents))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.DONE


def describe_skips(folder: Path, documents: Sequence[int]) -> list[str]:
    """A line for each of ``documents``; ``UserError`` for one that is not trained."""
    skipped = RowsWithSkips(folder, documents).skipped
    files = open_pack_files(folder)
    lines = document_lines(files)[0].lines
    return [
        f"skip document {document} ({files.place(int(lines[document]))}): "
        f"{one.trained_tokens:,} trained tokens in row {', '.join(map(str, one.rows))}"
        for document, one in skipped.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
