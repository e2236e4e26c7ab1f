"""Variables and paths that launchers set for their ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gemfit.core.launcher_environment import remove_working_folder_from_path


@pytest.mark.parametrize(
    ("deepspeed", "given", "stays"),
    [(True, "/code", False), (True, "", False), (True, "/code:{here}", True), (False, "/code", True)],
)
def test_a_rank_of_deepspeed_does_not_import_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deepspeed: bool, given: str, stays: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(Path.cwd())
    paths = [path for path in given.format(here=here).split(":") if path]
    monkeypatch.setenv("PYTHONPATH", ":".join([*paths, here]))
    monkeypatch.setattr(sys, "path", [*paths, *([] if here in paths else [here]), "/lib"])
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    if deepspeed:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    remove_working_folder_from_path()
    assert (here in sys.path) is stays
    assert (here in os.environ["PYTHONPATH"].split(":")) is stays
    assert "/lib" in sys.path
