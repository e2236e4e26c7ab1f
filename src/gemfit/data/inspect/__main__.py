"""Command line of pack inspection: ``python -m gemfit.data.inspect inspect|stats|verify PACK``.

Exit status 0; 1 if figures do not add up (stats); 2 with ``error: …`` on stderr for a damaged pack or wrong
arguments.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run one verb."""
    arguments = _parser().parse_args(argv)
    # Before transformers is imported: it would warn about missing frameworks.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return run_main(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> ExitCode:
    # Each verb has its own imports, which take up to a second.
    if arguments.verb == "inspect":
        from gemfit.data.inspect.inspect import inspect  # noqa: PLC0415

        inspect(
            arguments.pack,
            rows=arguments.row,
            split=arguments.split,
            document=arguments.document,
            as_json=arguments.json,
            whole=arguments.all,
            no_color=arguments.no_color,
        )
        return ExitCode.DONE
    if arguments.verb == "stats":
        from gemfit.data.inspect.stats import stats  # noqa: PLC0415

        return stats(arguments.pack, as_json=arguments.json, plot=arguments.plot)
    from gemfit.data.inspect.verify_view import print_verification  # noqa: PLC0415

    return print_verification(arguments.pack, as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.data.inspect", description="Inspect a pack.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    inspect, stats, verify = (verbs.add_parser(name) for name in ("inspect", "stats", "verify"))
    for verb in (inspect, stats, verify):
        verb.add_argument("pack", type=Path, help="folder of the pack")
        verb.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--row", default="0", help="7, 0-9 or all")
    inspect.add_argument("--split", default="train", help="train or validation")
    inspect.add_argument(
        "--document", type=int, help="number of a conversation: all rows that hold a part of it"
    )
    inspect.add_argument("--all", action="store_true", help="show long turns in full")
    inspect.add_argument("--no-color", action="store_true", help="mark with brackets instead of colours")
    stats.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures")
    return parser


if __name__ == "__main__":
    # A reader that closes early (head, less) is not an error. For this process only.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
