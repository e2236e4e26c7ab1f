"""``python -m gemfit.audit RUN``: audit models of a run; ``--list`` lists the suites.

Exit status 0, with findings too; 1 where ``--fail-on`` asks for it; 2 with ``error: …`` on stderr for a
mistake of the user.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gemfit.audit.catalog import SUITES, about
from gemfit.core.atomic_file import write_atomic
from gemfit.core.install_hint import require_packages
from gemfit.core.module_main import run_main
from gemfit.core.plain_console import PlainConsole
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit

WIDTH = 160
"""Of tables, where no terminal says how wide it is."""


def main(argv: list[str] | None = None) -> int:
    """Parse the options, run the audit, write the reports, and show the findings."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    # Before transformers is imported: it would warn about missing frameworks.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments.list:
        _list(as_json=arguments.json)
        return ExitCode.DONE
    if arguments.run is None:
        parser.error("RUN is missing")
    return run_main(lambda: _audit(arguments))


def write(run: RunDir, audit: Audit) -> Path:
    """Write ``audit.json`` and ``audit.md`` into the run folder; returns the path of the latter."""
    from gemfit.audit.markdown import as_markdown  # noqa: PLC0415

    run.audit_file.parent.mkdir(parents=True, exist_ok=True)
    readable = run.audit_file.with_suffix(".md")
    write_atomic(readable, as_markdown(audit))
    write_atomic(run.audit_file, audit.to_json())
    return readable


def _audit(arguments: argparse.Namespace) -> ExitCode:
    run = RunDir.open(arguments.run)
    require_packages("gemfit audit", ("vaderSentiment", "rapidfuzz", "scipy"), "train,audit")
    # Seconds of imports, which a wrong folder should not cost.
    from gemfit.audit.run_audit import run_audit, select_suites  # noqa: PLC0415
    from gemfit.audit.scoring import DEFAULT_CHECKPOINTS, AuditSettings  # noqa: PLC0415
    from gemfit.audit.table import print_audit  # noqa: PLC0415

    audit = run_audit(
        run,
        AuditSettings(
            checkpoints=tuple(arguments.checkpoint or DEFAULT_CHECKPOINTS),
            suites=select_suites(arguments.suite or SUITES),
            prompts=arguments.prompts,
            judge=arguments.judge,
            judge_timeout_seconds=arguments.judge_timeout,
            limit=arguments.limit,
            system=arguments.system,
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        ),
        save_unjudged=lambda audit: write(run, audit),
    )
    readable = write(run, audit)
    if arguments.json:
        sys.stdout.write(audit.to_json())
    else:
        print_audit(audit, _console())
        sys.stdout.write(f"\nevery prompt and reply: {readable}\n")
    return ExitCode.FAILED if _fails(audit, arguments.fail_on) else ExitCode.DONE


def _fails(audit: Audit, level: str | None) -> bool:
    """Whether a model has a finding of ``level``; the base model does not count among others."""
    counted = [model for model in audit.models if model.name != "base"] or audit.models
    bad = {"fail": ("fail",), "warn": ("fail", "warn")}.get(level or "", ())
    return any(finding.severity in bad for model in counted for finding in model.findings)


def _list(*, as_json: bool) -> None:
    suites = {name: about(name) for name in SUITES}
    if as_json:
        listed = {name: suite.model_dump(mode="json") for name, suite in suites.items()}
        sys.stdout.write(json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
        return
    table = Table("suite", "purpose", "source", "limits", box=None, pad_edge=False)
    for name, suite in suites.items():
        table.add_row(*map(Text, (name, suite.purpose, suite.source, suite.limits)))
    _console().print(table)


def _console() -> PlainConsole:
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.audit", description="Audit models of a run.")
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run")
    parser.add_argument("--checkpoint", action="append", help="a step, latest, best, base, or a model folder")
    parser.add_argument("--suite", action="append", help="one suite; may be repeated")
    parser.add_argument("--prompts", type=Path, help="JSON lines with custom prompts")
    parser.add_argument("--judge", help="command that scores replies")
    parser.add_argument("--judge-timeout", type=float, default=600.0, help="seconds for one model")
    parser.add_argument("--limit", type=int, help="prompts per suite")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="longest reply")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts per batch")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and of intervals")
    parser.add_argument("--fail-on", choices=["fail", "warn"], help="findings that give exit status 1")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
