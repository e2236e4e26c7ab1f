"""A run folder from a stranger, fresh for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from security.stranger import change, make_stranger


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step and a checkpoint, and its pack."""
    return make_stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def run(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    made = RunDir(tmp_path / "run")
    change(made.plan_file, lambda plan: plan["pack"].update(folder=str(tmp_path / "pack")))
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What an attack makes or changes."""
    return tmp_path / "victim"
