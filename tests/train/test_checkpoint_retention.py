"""Which checkpoints stay, what readers are promised, and where damaged ones go: no torch, no ranks."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest

from gemfit.checkpoint import newest_valid, store
from gemfit.checkpoint.integrity import MANIFEST, MANIFEST_DIGEST, digest_files, manifest_digest
from gemfit.checkpoint.retention import locked_if_unread, quarantine, reading
from gemfit.checkpoint.verify_digests import main, verify
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


def write(
    run: RunDir,
    step: int,
    *,
    attempt: int = 1,
    keep: int = 2,
    loss: float | None = None,
    keep_best: bool = True,
) -> Path:
    staging = store.begin(run, step, attempt, bytes_needed=1)
    write_atomic(staging / "weights", f"step {step}, attempt {attempt}".encode())
    manifest = CheckpointManifest(
        step=step,
        cursor_row=step,
        world_size=1,
        strategy="single",
        plan_digest="1" * 32,
        training={},
        attempt=attempt,
        eval_loss=loss,
        files=tuple(digest_files(staging, [staging / "weights"])),
    )
    return store.commit(run, staging, manifest, keep=keep, keep_best=keep_best)


def steps(run: RunDir) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints.iterdir())


def test_the_best_one_stays_with_the_newest(run: RunDir) -> None:
    for step, loss in enumerate((3.0, 1.0, 2.0, 2.5, 2.7), start=1):
        write(run, step, loss=loss)
    assert steps(run) == [2, 4, 5]
    write(run, 6, loss=0.5)
    assert steps(run) == [5, 6], "a new best takes the place of the old one"


def test_the_best_one_is_not_retained_unless_asked_for(run: RunDir) -> None:
    for step, loss in enumerate((1.0, 2.0, 3.0), start=1):
        write(run, step, loss=loss, keep_best=False)
    assert steps(run) == [2, 3]


def test_what_was_not_measured_is_never_the_best(run: RunDir) -> None:
    for step, loss in enumerate((None, float("inf"), 2.0, None, None), start=1):
        write(run, step, loss=loss)
    assert steps(run) == [3, 4, 5]


def test_what_is_being_read_stays_until_the_next_save(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = write(run, 1)
    with reading(folder):
        write(run, 2)
        write(run, 3)
        assert steps(run) == [1, 2, 3]
        assert f"{folder} stays: it is being read" in caplog.text
        assert (folder / "weights").read_text() == "step 1, attempt 1"
    write(run, 4)
    assert steps(run) == [3, 4]


def test_many_may_read_at_once(run: RunDir) -> None:
    folder = write(run, 1)
    with reading(folder), reading(folder):
        pass


def test_the_same_step_is_not_replaced_under_a_reader(run: RunDir) -> None:
    folder = write(run, 1)
    with reading(folder):
        writer = threading.Thread(target=write, args=(run, 1), kwargs={"attempt": 2})
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert (folder / "weights").read_text() == "step 1, attempt 1"
    writer.join(10)
    assert (folder / "weights").read_text() == "step 1, attempt 2"


def test_a_reader_that_comes_too_late_gets_an_error(run: RunDir) -> None:
    folder = write(run, 1)
    write(run, 2)
    write(run, 3)
    with pytest.raises(UserError, match="step-00000001: was retired a moment ago"), reading(folder):
        pass


def test_on_nfs_a_manifest_that_another_node_has_removed_has_no_lock(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(run, 1)

    def stale(descriptor: int, operation: int) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(fcntl, "flock", stale)
    with pytest.raises(UserError, match="step-00000001: was retired a moment ago"), reading(folder):
        pass
    with locked_if_unread(folder) as free:
        assert not free


def test_a_removal_cut_short_leaves_no_half_of_a_checkpoint(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run, 1)
    write(run, 2)

    def crash(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            write(run, 3)
    assert sorted(path.name for path in run.committed()) == ["step-00000002", "step-00000003"]
    write(run, 4)
    assert steps(run) == [3, 4]


def test_a_damaged_checkpoint_is_put_aside_with_the_reason(
    run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    write(run, 1)
    for attempt in (1, 2):
        folder = write(run, 2, attempt=attempt)
        (folder / "weights").write_text("damaged")
        found, [(damaged, reason)] = store.survey(run)
        assert found is not None
        assert (found[1].step, damaged) == (1, folder)
        quarantine(run, damaged, reason)
        assert str(folder) in caplog.text
    names = sorted(path.name for path in run.quarantine.iterdir())
    assert names == ["step-00000002", "step-00000002.2"]
    assert "weights has 7 bytes" in (run.quarantine / "step-00000002" / "reason.txt").read_text()
    assert newest_valid(run) is not None
    assert steps(run) == [1]


def test_verifying_reads_every_byte(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, 1)
    damaged = write(run, 2) / "weights"
    damaged.write_text(damaged.read_text().replace("2", "3"))
    expected = {"step-00000001": None, "step-00000002": "weights has changed since it was written"}
    assert verify(run) == expected
    newer = write(run, 3, keep=3)
    text = (newer / MANIFEST).read_text().replace('"step":', '"from_the_future": 1, "step":').encode()
    (newer / MANIFEST).write_bytes(text)
    (newer / MANIFEST_DIGEST).write_bytes(manifest_digest(text))
    found = verify(run)
    assert "was it written by another version?" in str(found.pop("step-00000003"))
    assert found == expected, "one that cannot be read hides no other"
    assert main([str(run.root)]) == 2
    assert capsys.readouterr().err == f"error: {run.root}: is not a run folder (it has no plan.json)\n"
