"""Several builds of one pack: one does the work, the others take its pack; nothing of a killed one stays."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemfit.core import one_writer as module
from gemfit.core.atomic_folder import staging
from gemfit.core.one_writer import one_writer
from gemfit.data.build import merge, pipeline

from .conftest import Call, WriteConversations, WriteJob, content, random_conversations

PROGRAM = [sys.executable, "-m", "gemfit.data"]


@pytest.fixture
def job(write_conversations_file: WriteConversations, write_job: WriteJob) -> Path:
    return write_job(
        write_conversations_file(random_conversations(60, seed=2)), seq_len=128, validation_share=0.2
    )


def test_of_builds_at_once_all_end_well_with_one_pack(job: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "packs" / "pack"
    argv = [*PROGRAM, str(job), "--out", str(out), "--workers", "1"]
    builds = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [build.communicate(timeout=200)[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0, 0], said
    assert [path.name for path in out.parent.iterdir()] == ["pack"]
    assert call(job, "alone")[0] == 0
    assert content(out) == content(tmp_path / "alone")


def test_a_build_waits_for_another_and_takes_its_pack(
    job: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(job, "made")[0] == 0
    said: list[str] = []
    with one_writer(tmp_path / "pack", said.append):
        waiting = subprocess.Popen(
            [*PROGRAM, str(job), "--out", str(tmp_path / "pack")], stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        assert "waiting for it" in waiting.stderr.readline()
        (tmp_path / "made").rename(tmp_path / "pack")
    assert waiting.communicate(timeout=100)[1].startswith("train: ")
    assert waiting.returncode == 0
    assert said == []


def test_what_a_killed_build_has_left_is_swept_by_the_next(job: Path, call: Call, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from gemfit.core.one_writer import one_writer\n"
        "from gemfit.core.atomic_folder import staging\n"
        "out = Path(sys.argv[1])\n"
        "with one_writer(out, print), staging(out) as partial:\n"
        "    (partial / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pack")], check=False)
    assert killed.returncode == -signal.SIGKILL
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".pack.")]
    assert len(hidden) == 2
    assert call(job, "pack")[0] == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pack.")] == []


def test_without_locks_the_first_to_rename_wins_and_the_other_takes_its_pack(
    job: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, **options: Any) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module, "try_lock", unsupported)
    assert call(job, "first")[0] == 0

    def faster(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "first").rename(tmp_path / "pack")
        return merge.assemble(*arguments, **options)

    monkeypatch.setattr(pipeline, "assemble", faster)
    assert call(job, "pack")[0] == 0
    assert not list(tmp_path.glob(".pack.partial*"))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[threading.Event]:
    """Another build of ``tmp_path/out``, that ends when the event is set."""
    end, begun = threading.Event(), threading.Event()

    def hold() -> None:
        with one_writer(tmp_path / "out", lambda text: None), staging(tmp_path / "out"):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    yield end
    end.set()
    thread.join()


def test_the_partial_folder_of_a_living_build_is_left_alone(other: threading.Event, tmp_path: Path) -> None:
    said: list[str] = []
    threading.Timer(0.3, other.set).start()
    started = time.monotonic()
    with one_writer(tmp_path / "out", said.append):
        assert (tmp_path / "out").is_dir()
    assert time.monotonic() - started > 0.2
    assert said == [f"another process is writing {tmp_path / 'out'}; waiting for it"]


def test_on_nfs_a_lock_file_that_another_node_has_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, locking a file that is gone raises ESTALE."""
    flock, lock = fcntl.flock, tmp_path / ".out.lock"
    removed: list[Path] = []

    def stale_once(descriptor: int, operation: int) -> None:
        if not removed:
            lock.unlink()
            removed.append(lock)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", stale_once)
    with one_writer(tmp_path / "out", lambda text: None):
        assert lock.exists()
    assert removed
    assert not list(tmp_path.iterdir())
