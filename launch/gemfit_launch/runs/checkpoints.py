"""The checkpoints of a run, read from its folder by somebody who takes no part in it.

By itself it looks at names and sizes; digests are for ``gemfit.checkpoint.verify_digests`` to compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.schemas.manifest import CheckpointManifest, missing_or_resized


class CheckpointStatus(Contract):
    """One checkpoint as it lies there."""

    folder: str
    step: int | None
    """`None`, like all below, where the manifest cannot be read."""
    bytes: int | None
    world_size: int | None
    strategy: str | None
    attempt: int | None
    eval_loss: float | None
    problem: str | None
    """Why it cannot be resumed; `None` where nothing speaks against it."""
    verified: bool
    """Whether every byte was compared, or only names and sizes."""


def read_checkpoints(run: RunDir, verified: Mapping[str, str | None] | None = None) -> list[CheckpointStatus]:
    """All checkpoints by step, and then those in quarantine.

    ``verified`` tells what is wrong with each folder, by name, where every byte has been compared.
    """
    found = [_status(folder, verified) for folder in run.committed()]
    aside = [_quarantined(folder) for folder in sorted(run.quarantine.glob("*"))]
    return sorted(found, key=lambda status: (status.step or 0, status.folder)) + aside


def _status(folder: Path, verified: Mapping[str, str | None] | None) -> CheckpointStatus:
    if verified is not None and folder.name in verified:
        return _described(folder, verified[folder.name], verified=True)
    return _described(folder, None, verified=False)


def _quarantined(folder: Path) -> CheckpointStatus:
    reason = folder / "reason.txt"
    why = reason.read_text().strip() if reason.is_file() else "no reason was written"
    return _described(folder, f"in quarantine: {why}", verified=False)


def _described(folder: Path, problem: str | None, *, verified: bool) -> CheckpointStatus:
    try:
        manifest = CheckpointManifest.read(folder / "manifest.json")
    except UserError as error:
        nothing = dict.fromkeys(("step", "bytes", "world_size", "strategy", "attempt", "eval_loss"))
        return CheckpointStatus(
            folder=str(folder), problem=problem or str(error), verified=verified, **nothing
        )
    return CheckpointStatus(
        folder=str(folder),
        step=manifest.step,
        bytes=sum(file.bytes for file in manifest.files),
        world_size=manifest.world_size,
        strategy=manifest.strategy,
        attempt=manifest.attempt,
        eval_loss=manifest.eval_loss,
        problem=problem or missing_or_resized(folder, manifest.files),
        verified=verified,
    )
