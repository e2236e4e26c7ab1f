"""Locks as others see them: without permission to write, and on file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemfit.core import file_lock
from gemfit.core.file_lock import NO_LOCKS, lock_shared, lock_state
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.status import read_state
from gemfit_launch.slurm.cluster.preflight_local import _folder


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    made = RunDir.create(tmp_path / "run", plan)
    made.begin_attempt()
    return made


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def mount_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_flag=os.ST_RDONLY))


def refuse_writing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = Path.open

    def refusing(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if set(mode) & set("awx+"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", refusing)


def test_a_lock_is_seen_without_writing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.hold():
        refuse_writing(monkeypatch, errno.EACCES)
        assert read_state(run) == "running"
    assert read_state(run) == AttemptOutcome.CRASHED
    assert lock_state(run.lock_file) == "free"


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_the_verdict_and_recent_output_decide(
    number: int, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.lock_file.touch()
    refuse_locks(monkeypatch, number)
    assert read_state(run) == "running"
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3))
    assert read_state(run) == AttemptOutcome.STOPPED
    run.verdict_file.unlink()
    for ahead in (-3600, 86_400):  # a clock that was wrong keeps no run active
        for path in (run.attempt_file, run.metrics_file, run.log(1)):
            path.touch()
            os.utime(path, (time.time() + ahead, time.time() + ahead))
        assert read_state(run) == AttemptOutcome.CRASHED
    os.utime(run.metrics_file)
    assert read_state(run) == "running"


def test_a_snapshot_shows_no_locks(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.lock_file.touch()
    mount_read_only(monkeypatch)
    assert read_state(run) == "running"


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_run_that_cannot_be_locked_is_not_trained(
    number: int, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, number)
    with pytest.raises(UserError, match="file system without file locks"), run.hold():
        pass


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "it belongs to"), (errno.EROFS, "read-only file system")]
)
def test_a_run_of_somebody_else_is_neither_trained_nor_stopped(
    number: int, words: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writing(monkeypatch, number)
    with pytest.raises(UserError, match=words), run.hold():
        pass
    with pytest.raises(UserError, match=words):
        run.request_stop()


def test_an_owner_without_a_name(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def owner(path: Path) -> str:
        raise KeyError(path)

    monkeypatch.setattr(Path, "owner", owner)
    refuse_writing(monkeypatch, errno.EPERM)
    with pytest.raises(UserError, match="belongs to another user"), run.hold():
        pass


@pytest.mark.parametrize("number", NO_LOCKS)
def test_readers_do_without_locks_where_there_are_none(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, number)
    with (tmp_path / "file").open("w") as stream:
        lock_shared(stream.fileno())


def test_other_errors_are_not_explained(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), run.hold():
        pass
    assert file_lock.lock_state(run.lock_file) == "unknown"


@pytest.mark.parametrize("number", NO_LOCKS)
def test_preflight_tries_a_lock(
    number: int, tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(check.state != "error" for check in _folder(tmp_path / "new", plan, None))
    refuse_locks(monkeypatch, number)
    faults = [check.found for check in _folder(tmp_path / "new", plan, None) if check.state == "error"]
    assert ["file system without file locks" in fault for fault in faults] == [True]
