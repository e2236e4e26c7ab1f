"""The run folder: its lock, its files, and how they change."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.batch import make_batch
from gemfit.schemas.plan import PackReference, Plan, Steps, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe


@pytest.fixture
def plan() -> Plan:
    return Plan(
        recipe=Recipe(model=ModelRecipe(id="some/model")),
        site=None,
        topology=Topology(nodes=1, ranks_per_node=2, device="cpu"),
        batch=make_batch(global_batch_size=8, max_per_device_batch_size=4, world_size=2, seq_len=1024),
        steps=Steps(rows=10, rows_are="packed", per_epoch=1.25, total=4, warmup_share=50.0),
        pack=PackReference(fingerprint="f", folder="/packs/f"),
        accelerate={},
        deepspeed=None,
        command=("true",),
        env={},
        versions={},
        warnings=(),
    )


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    return RunDir.create(tmp_path / "run", plan)


def test_a_new_run_gives_back_its_plan(run: RunDir, plan: Plan) -> None:
    assert RunDir.open(run.root).plan() == plan


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "note").touch()
    with pytest.raises(UserError, match=r"holds files but is not a run folder; choose another --run"):
        RunDir.create(tmp_path, plan)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_a_run_is_not_created_in_place_of_another(run: RunDir, plan: Plan) -> None:
    with pytest.raises(UserError, match=r"is already in use; resume it with `gemfit resume"):
        RunDir.create(run.root, plan)


@pytest.mark.parametrize("others", [(), ("logs/attempt-1.log",)])
def test_a_plan_that_cannot_be_written_leaves_only_what_others_wrote(
    others: tuple[str, ...], tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"

    def fail(path: Path, content: str) -> None:
        for name in others:
            (root / name).touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("gemfit.rundir.write_atomic", fail)
    with pytest.raises(UserError, match=r"plan\.json: cannot be written: No space left .* another --run"):
        RunDir.create(root, plan)
    assert [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()] == list(others)
    assert root.exists() == bool(others)


def test_an_empty_folder_is_taken(tmp_path: Path, plan: Plan) -> None:
    assert RunDir.create(tmp_path, plan).plan() == plan


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        RunDir.open(tmp_path)


def test_a_plan_of_another_version_is_refused_by_name(run: RunDir) -> None:
    run.plan_file.write_text(run.plan_file.read_text().replace('"batch"', '"batsch"'))
    with pytest.raises(UserError, match=r"plan\.json: recipe\.batsch: .*written by another version"):
        run.plan()


def test_attempts_are_numbered_and_forget_the_last_end(run: RunDir) -> None:
    assert run.attempt == 0
    assert run.begin_attempt() == 1
    run.request_stop()
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3))
    assert run.begin_attempt() == 2
    assert run.attempt == 2
    assert run.verdict() is None
    assert not run.stop_file.exists()


def test_a_verdict_is_read_as_it_was_written(run: RunDir) -> None:
    verdict = Verdict(outcome=AttemptOutcome.FATAL, attempt=1, step=3, reason="a\nb")
    run.write_verdict(verdict)
    assert run.verdict() == verdict


def test_a_locked_run_cannot_be_locked_again(run: RunDir) -> None:
    with run.hold():
        assert run.is_active
        with pytest.raises(UserError, match="another process is training this run"), run.hold():
            pass
    assert not run.is_active


def test_patience_outlasts_a_short_hold(run: RunDir) -> None:
    with start(HOLD, run.root, 0.5) as holder:
        wait_for_line(holder)
        with pytest.raises(UserError), run.hold():
            pass
        with run.hold(patience_seconds=60):
            pass
        assert holder.wait() == 0


def test_a_killed_holder_holds_nothing(run: RunDir) -> None:
    with start(HOLD, run.root, 60) as holder:
        wait_for_line(holder)
        assert run.is_active
        holder.kill()
        holder.wait()
        assert not run.is_active


def test_a_child_that_inherits_the_lock_keeps_the_run_locked(run: RunDir) -> None:
    with run.hold() as lock:
        heir = os.dup(lock)
    assert run.is_active
    os.close(heir)
    assert not run.is_active


def test_atomic_writing_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["state"], "no temporary file is left"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, "a" * 100_000)
    with start(WRITE, path) as writer:
        seen = {path.read_text() for _ in iter(writer.poll, 0)}
    assert seen <= {letter * 100_000 for letter in "abc"}
    assert len(seen) > 1, "the reader saw the file change"


def test_paths_of_a_run_are_all_inside_it_and_all_different(run: RunDir) -> None:
    names = [name for name in dir(RunDir) if isinstance(getattr(RunDir, name), property)]
    paths = [value for value in (getattr(run, name) for name in names) if isinstance(value, Path)]
    paths += [run.checkpoint(7), run.staging(7, 1), run.staging(7, 2), run.log(1)]
    assert len(paths) > 12, "the properties were found"
    assert len(set(paths)) == len(paths)
    assert all(run.root in path.parents for path in paths)


HOLD = """
import sys, time
from pathlib import Path
from gemfit.rundir import RunDir
with RunDir(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
WRITE = """
import sys
from pathlib import Path
from gemfit.core.atomic_file import write_atomic
for number in range(300):
    write_atomic(Path(sys.argv[1]), "abc"[number % 3] * 100_000)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


@pytest.mark.parametrize("content", ["", "\0\0", "one\n"])
def test_the_attempt_number_outlives_its_file(content: str, run: RunDir) -> None:
    run.begin_attempt()
    run.begin_attempt()
    run.attempt_file.write_text(content)
    assert (run.attempt, run.begin_attempt(), run.attempt) == (2, 3, 3)
