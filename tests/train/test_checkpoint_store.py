"""What counts as a checkpoint on disk: no torch, no ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import MANIFEST, MANIFEST_DIGEST, digest_files
from gemfit.checkpoint.store import SupersededError, newest_valid
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest

FILES = ("__0_0.distcp", "__1_0.distcp", ".metadata", "progress.json")
WRITTEN = (*FILES, MANIFEST, MANIFEST_DIGEST)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


def stage(run: RunDir, step: int, attempt: int) -> tuple[Path, CheckpointManifest]:
    staging = store.begin(run, step, attempt, bytes_needed=1)
    for name in FILES:
        write_atomic(staging / name, f"{name} of step {step}, attempt {attempt}".encode() * 9)
    return staging, CheckpointManifest(
        step=step,
        cursor_row=8 * step,
        world_size=2,
        strategy="ddp",
        plan_digest="1" * 32,
        training={"seed": 1},
        attempt=attempt,
        files=tuple(digest_files(staging, [staging / name for name in FILES])),
    )


def write(run: RunDir, step: int, *, attempt: int = 1, keep: int = 3) -> Path:
    return store.commit(run, *stage(run, step, attempt), keep=keep)


def steps(run: RunDir) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def newest(run: RunDir) -> int | None:
    found = newest_valid(run)
    return found[1].step if found else None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    run: RunDir, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    write(run, 10)
    damaged = write(run, 20)
    assert newest(run) == 20
    damage(damaged / name)
    assert newest(run) == 10
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(damaged) in record.message
    assert name in record.message or MANIFEST in record.message


def test_every_bit_of_the_manifest_counts(run: RunDir) -> None:
    manifest = write(run, 10) / MANIFEST
    content = manifest.read_bytes()
    for place in range(0, len(content), 7):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert newest(run) is None, f"byte {place} of {len(content)}"
    manifest.write_bytes(content)
    assert newest(run) == 10


def test_a_half_written_checkpoint_is_never_resumed(
    run: RunDir, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run, 10)
    staging, manifest = stage(run, 20, 1)

    def crash_before_the_manifest(path: Path, content: bytes) -> None:
        if path.name == MANIFEST:
            raise KeyboardInterrupt
        write_atomic(path, content)

    monkeypatch.setattr(store, "write_atomic", crash_before_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        store.commit(run, staging, manifest, keep=3)
    assert newest(run) == 10
    assert "half-written" in caplog.text
    assert staging.name in caplog.text


def test_a_complete_staging_folder_without_its_rename_is_not_a_checkpoint(run: RunDir) -> None:
    write(run, 10)
    folder = write(run, 20)
    folder.rename(run.staging(20, 1))
    assert newest(run) == 10


def test_what_earlier_attempts_left_half_written_is_removed(run: RunDir) -> None:
    stage(run, 10, 1)
    write(run, 10, attempt=2)
    assert steps(run) == ["step-00000010"]


def test_at_most_keep_checkpoints_stay(run: RunDir) -> None:
    for step in range(1, 6):
        write(run, step, keep=2)
    assert steps(run) == ["step-00000004", "step-00000005"]


def test_damaged_later_steps_do_not_push_out_what_was_just_saved(run: RunDir) -> None:
    write(run, 10)
    for step in (20, 30):
        flip_a_bit(write(run, step) / FILES[0])
    write(run, 15, attempt=2, keep=1)
    assert newest(run) == 15
    assert steps(run) == ["step-00000015"]


def test_a_later_attempt_that_went_back_supersedes_what_lies_ahead(run: RunDir) -> None:
    write(run, 30, attempt=1)
    write(run, 20, attempt=2)
    assert newest(run) == 20


def test_the_same_step_saved_again_replaces_the_old_one(run: RunDir) -> None:
    write(run, 10, attempt=1)
    write(run, 10, attempt=2)
    found = newest_valid(run)
    assert found is not None
    assert found[1].attempt == 2
    assert steps(run) == ["step-00000010"]


def test_a_crash_between_the_two_renames_of_a_replacement_loses_nothing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run, 10, attempt=1, keep=1)
    staging, manifest = stage(run, 10, 2)
    rename = Path.rename

    def crash_at_the_second(path: Path, target: Path) -> Path:
        if path == staging:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            store.commit(run, staging, manifest, keep=1)
    found = newest_valid(run)
    assert found is not None
    assert (found[1].step, found[1].attempt) == (10, 1)
    write(run, 20, attempt=3, keep=2)
    assert newest(run) == 20
    assert len(steps(run)) == 2


def test_a_newer_attempt_takes_the_run_away_before_the_commit(run: RunDir) -> None:
    write(run, 10)
    staging, manifest = stage(run, 20, 1)
    write_atomic(run.attempt_file, "2\n")
    with pytest.raises(SupersededError, match="attempt 2"):
        store.commit(run, staging, manifest, keep=3)
    assert newest(run) == 10
    with pytest.raises(SupersededError, match="attempt 2"):
        store.begin(run, 30, 1, bytes_needed=1)


def test_a_checkpoint_that_cannot_fit_is_refused_before_writing(run: RunDir) -> None:
    write(run, 10)
    with pytest.raises(UserError, match=r"disk is full: a checkpoint takes 1,000,000,000,000,000,000 bytes"):
        store.begin(run, 20, 1, bytes_needed=10**18)
    assert steps(run) == ["step-00000010"]


def test_a_step_that_was_never_saved_names_those_that_were(run: RunDir) -> None:
    write(run, 10)
    write(run, 20)
    with pytest.raises(UserError, match="steps saved: 10, 20"):
        store.checkpoint_of_step(run, 15)


def test_a_damaged_step_that_is_asked_for_is_refused(run: RunDir) -> None:
    truncate(write(run, 10) / FILES[1])
    with pytest.raises(UserError, match=r"__1_0\.distcp has .* bytes"):
        store.checkpoint_of_step(run, 10)
