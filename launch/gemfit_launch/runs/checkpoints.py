"""List the checkpoints of a run from its folder, while it trains or afterwards.

Checks names and sizes only; ``gemfit.checkpoint.verify_digests`` compares digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gemfit.core.regular_file import open_regular
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.schemas.manifest import CheckpointManifest, missing_or_resized

MOST_REASON_BYTES = 4096


class CheckpointStatus(Contract):
    """One checkpoint folder."""

    folder: str
    step: int | None
    """`None`, like all below, where the manifest cannot be read."""
    bytes: int | None
    world_size: int | None
    strategy: str | None
    attempt: int | None
    eval_loss: float | None
    problem: str | None
    """Why it cannot be resumed; `None` if no problem was found."""
    verified: bool
    """Whether digests were compared, not only names and sizes."""


def read_checkpoints(run: RunDir, verified: Mapping[str, str | None] | None = None) -> list[CheckpointStatus]:
    """All checkpoints by step, then those in quarantine.

    ``verified`` maps folder names to problems found by comparing digests.
    """
    found = [_status(folder, verified) for folder in run.committed()]
    aside = [_quarantined(folder) for folder in sorted(run.quarantine.glob("*"))]
    return sorted(found, key=lambda status: (status.step or 0, status.folder)) + aside


def _status(folder: Path, verified: Mapping[str, str | None] | None) -> CheckpointStatus:
    if verified is not None and folder.name in verified:
        return _described(folder, verified[folder.name], verified=True)
    return _described(folder, None, verified=False)


def _quarantined(folder: Path) -> CheckpointStatus:
    return _described(folder, f"in quarantine: {_reason(folder / 'reason.txt')}", verified=False)


def _reason(path: Path) -> str:
    if not path.is_file():
        return "no reason was written"
    with open_regular(path) as stream:
        return stream.read(MOST_REASON_BYTES).decode(errors="replace").strip()


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
