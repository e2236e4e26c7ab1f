"""Which checkpoint ``--checkpoint`` means: a step, ``latest`` or ``best``."""

from __future__ import annotations

from gemfit.checkpoint.store import best_valid, newest_valid, valid_checkpoint
from gemfit.errors import UserError
from gemfit.rundir import RunDir

LATEST, BEST = "latest", "best"


def find_step(run: RunDir, which: str) -> int:
    """The step of the checkpoint that ``which`` names; ``UserError`` where there is none."""
    if which.isdigit():
        if not run.checkpoint(int(which)).is_dir():
            valid_checkpoint(run, int(which))  # raises, with the steps that there are
        return int(which)
    if which == LATEST:
        if (newest := newest_valid(run)) is None:
            raise UserError(
                f"{run.checkpoints}: there is no valid checkpoint yet; train until the first save"
            )
        return newest[1].step
    if which != BEST:
        raise UserError(f"--checkpoint {which}: is not valid here; give a step, {LATEST} or {BEST}")
    return best_valid(run)[1].step
