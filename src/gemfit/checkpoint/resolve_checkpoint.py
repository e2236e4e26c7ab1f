"""Resolve ``--checkpoint STEP|latest|best|base`` to a checkpoint of the run."""

from __future__ import annotations

from gemfit.checkpoint.store import Found, best_checkpoint, checkpoint_of_step, newest_listed, newest_valid
from gemfit.errors import UserError
from gemfit.rundir import RunDir

BASE, LATEST, BEST = "base", "latest", "best"


def is_checkpoint_name(which: str) -> bool:
    """Whether ``which`` is `base`, `latest`, `best` or a step (`200`, `step-200`, `step 200`)."""
    return which in (BASE, LATEST, BEST) or _step(which) is not None


def resolve_checkpoint(run: RunDir, which: str, *, verify: bool = True) -> Found | None:
    """Folder and manifest of the checkpoint that ``which`` names; ``None`` for `base`.

    ``verify`` reads every byte and compares digests: `latest` then skips damaged checkpoints, and another
    damaged one is a ``UserError``. Without it only manifests are read. ``UserError`` where there is none.
    """
    if which == BASE:
        return None
    if which == BEST:
        return best_checkpoint(run, verify=verify)
    if which == LATEST:
        found = newest_valid(run) if verify else newest_listed(run)
        if found is None:
            raise UserError(
                f"{run.checkpoints}: there is no valid checkpoint yet; train until the first is saved"
            )
        return found
    if (step := _step(which)) is None:
        raise UserError(f"--checkpoint {which}: is not valid; give a step, {LATEST}, {BEST} or {BASE}")
    return checkpoint_of_step(run, step, verify=verify)


def resolve_trained(run: RunDir, which: str, *, verify: bool = True) -> Found:
    """The same where the base model makes no sense: `base` is a ``UserError``."""
    found = resolve_checkpoint(run, which, verify=verify)
    if found is None:
        raise UserError(f"--checkpoint {which}: is not valid here; give a step, {LATEST} or {BEST}")
    return found


def _step(which: str) -> int | None:
    digits = which.removeprefix("step-").removeprefix("step ").strip()
    return int(digits) if digits.isdecimal() else None
