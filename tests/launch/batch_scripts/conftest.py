"""A node for the job scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from launch.batch_scripts.script_node import PYTHON, SRUN, Node


@pytest.fixture
def node(tmp_path: Path, plan: Plan) -> Node:
    made = Node(tmp_path, RunDir.create(tmp_path / "run", plan))
    made.program("python", PYTHON)
    made.program("srun", SRUN)
    return made
