"""How an attempt of a run ended: one enum for verdicts, Slurm records, status and report."""

from __future__ import annotations

from enum import StrEnum


class AttemptOutcome(StrEnum):
    """How an attempt ended; the values are what JSON files hold.

    A verdict states `completed`, `stopped`, `failed` or `fatal`, or `crashed` with its reason. Without one,
    the attempt was `crashed`, `interrupted` or `cancelled`.
    """

    COMPLETED = "completed"
    """All steps are done, or early stopping ended the run; nothing is left to train."""
    STOPPED = "stopped"
    """Saved a checkpoint because it was asked to stop: by a signal, `gemfit stop` or `--stop-at`."""
    FAILED = "failed"
    """The Slurm job gave up: too many crashes or interruptions without a new checkpoint, or an attempt that
    could not begin. A resume from the last checkpoint is worthwhile once the cause is removed."""
    FATAL = "fatal"
    """An error that every further attempt would meet: in the input (a `UserError`), data that cannot be
    packed, or at start-up (self-test, missing package, too little memory for a step). Never requeued."""
    CRASHED = "crashed"
    """The processes ended without a verdict: an exception, a signal, a failed node. The job continues from
    the last checkpoint, up to `max_restarts` times in a row."""
    INTERRUPTED = "interrupted"
    """Slurm ended the job (preemption, time limit, lost node) before the attempt could save. The next attempt
    starts from the last checkpoint. The report also infers it where a later attempt has repeated steps."""
    CANCELLED = "cancelled"
    """The Slurm job was cancelled (`gemfit cancel`, `scancel`) before it began, or before it could save."""
