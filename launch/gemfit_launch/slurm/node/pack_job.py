"""``python -m gemfit_launch.slurm.node.pack_job RUN_DIR``: pack the data of a run, then make its plan exact.

The submitted plan uses an estimated number of rows. The training job depends on this one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import Verdict
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack


def main() -> ExitCode:
    """Parse arguments, pack, and return the exit status."""
    parser = argparse.ArgumentParser(description="Pack the data of a run and make its plan exact.")
    parser.add_argument("run_dir", type=Path, help="folder with plan.json")
    run = RunDir.open(parser.parse_args().run_dir)
    try:
        run.adopt(pack(run.plan()))
    except PackFailed as error:
        _give_up(run, f"the data could not be packed; `gemfit logs {run.root} --job` says why")
        return error.code
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        _give_up(run, str(error))
        return ExitCode.USER_ERROR
    return ExitCode.DONE


def pack(plan: Plan) -> Plan:
    """Build the pack of ``plan`` unless it exists; returns the plan with the counted rows."""
    job, folder = make_pack_job(plan.recipe), Path(plan.pack.folder)
    if job.fingerprint != plan.pack.fingerprint:
        named = ", ".join(source.name for source in job.sources)
        raise UserError(f"{named}: has changed since the run was submitted; submit it again")
    manifest = ensure_pack(job, folder, force=False, say=print_line)
    return exact(plan, manifest.splits["train"].rows)


def exact(plan: Plan, rows: int) -> Plan:
    """The plan with a counted number of rows."""
    made = make_plan(
        plan.recipe,
        topology=plan.topology,
        pack=plan.pack,
        rows=rows,
        rows_are_packed=True,
        site=plan.site,
    )
    return made.model_copy(update={"attention_because": plan.attention_because})


def print_line(line: str) -> None:
    """One line in the log of the job, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _give_up(run: RunDir, reason: str) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FATAL, attempt=run.attempt, step=0, reason=reason))


if __name__ == "__main__":
    sys.exit(main())
