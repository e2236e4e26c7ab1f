"""How tests are shared out among processes: file by file, and all tests on Slurm to one of them."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadFileScheduling

SLURM = "tests/slurm"


class OneSlurm(LoadFileScheduling):  # type: ignore[misc]
    """A file is the unit, since its tests share runs; those of a Slurm cluster share it, and mostly wait."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return SLURM if Path(file).parent.as_posix() == SLURM else file
