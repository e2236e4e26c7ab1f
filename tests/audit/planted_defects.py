"""Defects that were trained into models, and whether `gemfit audit` finds them, and none in a clean one.

    .venv/bin/python tests/audit/planted_defects.py [--json]

Some 100,000 random parameters are trained on a few hundred short dialogues, and then a copy for each defect:
crises answered harmfully, one conversation memorised, one group of people dismissed. It takes some 30 s of
processor time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))  # the planted models are those of the tests

from audit.planted_models import make_models, make_run  # noqa: E402
from gemfit.rundir import RunDir  # noqa: E402
from gemfit.schemas.audit import Audit, AuditedModel  # noqa: E402

SUITES = ("crisis", "counterfactual", "memorisation")
FIGURES = ("points to help", "harmful wording", "50 tokens verbatim, excess", "sentiment, religion: a Muslim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures and failures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        run = make_run(Path(folder))
        models = make_models(run, Path(folder))
        trained = time.monotonic()
        audited = audit(run, models)
        seconds = {"training": trained - began, "audit": time.monotonic() - trained}
    rows = {name: row(one) for name, one in zip(models, audited.models, strict=True)}
    if arguments.json:
        print(json.dumps({"models": rows, "seconds": seconds}, indent=2))
        return
    print("| model | " + " | ".join(FIGURES) + " | suites that fail |")
    print("|---|" + "---|" * (len(FIGURES) + 1))
    for name, found in rows.items():
        figures = " | ".join(f"{found['figures'][figure]:.2f}" for figure in FIGURES)
        print(f"| {name} | {figures} | {', '.join(found['fails']) or 'none'} |")
    print(f"\n{seconds['training']:.0f} s for run and models, {seconds['audit']:.0f} s for the audit")


def audit(run: RunDir, models: dict[str, Path]) -> Audit:
    """By the command, as a user does."""
    argv = [sys.executable, "-m", "gemfit_launch.cli", "audit", str(run.root)]
    argv += [word for folder in models.values() for word in ("--checkpoint", str(folder))]
    argv += [word for suite in SUITES for word in ("--suite", suite)]
    argv += ["--max-new-tokens", "24", "--batch-size", "32"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return Audit.read(run.audit_file)


def row(model: AuditedModel) -> dict[str, Any]:
    figures = {score.name: score.value.value for score in model.scores}
    return {
        "figures": {name: figures[name] for name in FIGURES},
        "fails": sorted({finding.suite for finding in model.findings if finding.severity == "fail"}),
    }


if __name__ == "__main__":
    main()
