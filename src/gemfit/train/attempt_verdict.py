"""How a failed attempt states its outcome in the run folder; imports no torch."""

from __future__ import annotations

import os

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict


def attempt_number(run: RunDir) -> int:
    """The attempt of this process: from the launcher's environment, else the run's current one."""
    return int(os.environ.get("GEMFIT_ATTEMPT") or run.attempt)


def rank_of_process() -> int:
    """Number of this rank, also before it has a process group."""
    return int(os.environ.get("RANK", "0"))


def write_failure(run: RunDir, outcome: AttemptOutcome, reason: str, *, step: int = 0) -> bool:
    """State that this attempt has failed, `fatal` or `crashed`; returns whether this process did.

    Any rank may call it: a verdict that is there stays, but `fatal` replaces `crashed`. The run of a newer
    attempt is left alone.
    """
    attempt, stated = attempt_number(run), run.verdict()
    if run.attempt != attempt or (stated is not None and stated.outcome is not AttemptOutcome.CRASHED):
        return False
    if stated is not None and outcome is AttemptOutcome.CRASHED:
        return False
    run.write_verdict(Verdict(outcome=outcome, attempt=attempt, step=step, reason=reason))
    return True
