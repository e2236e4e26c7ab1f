"""Errors that users can fix end with exit status 2, a message, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.plan import PackReference

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

pytestmark = pytest.mark.slow


def test_a_pack_made_with_another_tokenizer_is_refused(fresh_run: Launch, tmp_path: Path) -> None:
    attempts = fresh_run("single", 1)
    plan = attempts.run.plan()
    other = tmp_path / "pack"
    shutil.copytree(plan.pack.folder, other)
    template = other / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text() + "!")
    pack = PackReference(fingerprint=plan.pack.fingerprint, folder=str(other))
    attempts.run.plan_file.write_text(plan.model_copy(update={"pack": pack}).to_json())
    done = _train(attempts)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {other}: was packed with tokenizer ")
    assert "pack again" in done.stderr
    assert "Traceback" not in done.stderr
    assert attempts.verdict is not None
    assert attempts.verdict.outcome == AttemptOutcome.FATAL


def test_another_number_of_ranks_than_planned_is_refused(fresh_run: Launch) -> None:
    done = _train(fresh_run("ddp", 2))
    assert done.returncode == 2
    assert done.stderr == (
        "error: plan.json is for 2 ranks, but 1 were started; "
        "use the plan's own command, or plan again for this number\n"
    )


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    done = _run(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: is not a run folder (it has no plan.json)\n"


def _train(attempts: Attempts) -> subprocess.CompletedProcess[str]:
    attempts.run.begin_attempt()
    return _run(attempts.run.root)


def _run(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemfit.train", str(root)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
