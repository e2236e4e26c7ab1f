"""``python -m gemfit.report RUN [RUN …] --out DIR``: HTML report of the first run, compared with the others.

Exit status 0; 2 with ``error: …`` on stderr for a user error. More than a second of imports, and half a
second per chart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode
from gemfit.schemas.report_facts import RunFacts


def main(argv: list[str] | None = None) -> int:
    """Read the runs, write the page, print its path."""
    arguments = _parser().parse_args(argv)
    # Before transformers is imported: it would warn about missing frameworks.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return run_main(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> ExitCode:
    # A second of imports, which wrong arguments should not cost.
    from gemfit.report.figures import key_figures, summarize  # noqa: PLC0415
    from gemfit.report.load import load_run  # noqa: PLC0415
    from gemfit.report.page import make_page, write_page  # noqa: PLC0415

    facts = [RunFacts.model_validate_json(text) for text in arguments.facts]
    facts += [RunFacts()] * (len(arguments.runs) - len(facts))
    runs = [
        load_run(run, fact, with_pack=index == 0)
        for index, (run, fact) in enumerate(zip(arguments.runs, facts, strict=True))
    ]
    with tqdm(desc="charts", unit=" charts", disable=None, leave=False) as bar:
        written = write_page(make_page(runs), arguments.out, lambda _: bar.update())
    if not arguments.json:
        sys.stdout.write(f"{written[0]}\n")
        return ExitCode.DONE
    figures = key_figures(runs[0])
    summary = {
        "html": str(written[0]),
        "pngs": [str(path) for path in written[1:]],
        "state": runs[0].state,
        "summary": summarize(runs[0], figures),
        **asdict(figures),
        "starts": [one.start.model_dump(mode="json") for one in runs[0].attempts if one.start],
        "goodput": runs[0].goodput.model_dump(mode="json") if runs[0].goodput else None,
        "best": figures.best.model_dump(mode="json") if figures.best else None,
    }
    sys.stdout.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.report", description="Write a run as an HTML page."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the run, then runs to compare")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page and the pictures")
    parser.add_argument(
        "--facts", action="append", default=[], metavar="JSON", help="`RunFacts` of each run, in order"
    )
    parser.add_argument("--json", action="store_true", help="print the key figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
