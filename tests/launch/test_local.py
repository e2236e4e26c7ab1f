"""Carrying a plan out, with a small program in the place of training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.core.stop_signals import LAUNCHER_VARIABLE
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import EvalRecord, Record, StepRecord
from gemfit.schemas.plan import Plan, Topology
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.runs.local import AttemptResult, carry_out, command_line, descendants, environment

TRAINING = Path(__file__).with_name("fake_training.py")


class Seen:
    """Keeps what an attempt showed."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.lines: list[str] = []
        self.on_record: Callable[[], None] = lambda: None

    def show(self, records: list[Record]) -> None:
        self.records += records
        if records:
            self.on_record()

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def fake(plan: Plan) -> Plan:
    """The plan, with the small program as its command."""
    return plan.model_copy(update={"command": (sys.executable, str(TRAINING), "{run_dir}")})


@pytest.fixture
def run(tmp_path: Path, fake: Plan) -> RunDir:
    return RunDir.create(tmp_path / "a run", fake)


def attempt(run: RunDir, seen: Seen | None = None, stop_at: int | None = None) -> AttemptResult:
    return carry_out(run, run.plan(), seen or Seen(), stop_at=stop_at)


def test_a_run_to_the_end_shows_every_record_and_leaves_a_verdict(run: RunDir) -> None:
    seen = Seen()
    outcome = attempt(run, seen)
    assert outcome.verdict is not None
    assert (outcome.attempt, outcome.returncode, outcome.verdict.outcome) == (1, 0, AttemptOutcome.COMPLETED)
    assert [r.step for r in seen.records if isinstance(r, StepRecord)] == list(range(1, 11))
    assert [r.step for r in seen.records if isinstance(r, EvalRecord)] == [10]


def test_all_output_goes_to_the_log_of_the_attempt(run: RunDir) -> None:
    attempt(run)
    log = run.log(1).read_text()
    assert "to stdout" in log
    assert "to stderr" in log


def test_the_processes_get_the_environment_of_the_plan(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    attempt(run)
    log = run.log(1).read_text()
    assert "GEMFIT_ATTEMPT=1" in log
    assert "OMP_NUM_THREADS=1" in log
    assert "SLURM_PROCID" not in log


def test_configurations_are_there_when_training_begins(run: RunDir) -> None:
    attempt(run)
    assert "accelerate.yaml, recipe.yaml" in run.log(1).read_text()


def test_stop_at_is_handed_on_and_a_resume_continues_the_steps(run: RunDir) -> None:
    first, second = Seen(), Seen()
    stopped = attempt(run, first, stop_at=4)
    assert stopped.verdict is not None
    assert (stopped.verdict.outcome, stopped.verdict.step) == (AttemptOutcome.STOPPED, 4)
    done = attempt(run, second)
    assert done.attempt == 2
    assert [r.step for r in second.records if isinstance(r, StepRecord)] == [5, 6, 7, 8, 9, 10]
    assert {r.attempt for r in second.records} == {2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_asks_the_run_to_stop_and_reaches_no_process_of_it(
    run: RunDir, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    seen, sent = Seen(), threading.Event()

    def send_once() -> None:
        if not sent.is_set():
            sent.set()
            os.kill(os.getpid(), number)

    seen.on_record = send_once
    before = signal.getsignal(number)
    outcome = attempt(run, seen)
    assert outcome.verdict is not None
    assert outcome.verdict.outcome == AttemptOutcome.STOPPED
    assert 0 < outcome.verdict.step < 10
    assert "got a signal" not in run.log(1).read_text()
    assert signal.getsignal(number) == before
    assert any("saves at its next step" in line for line in seen.lines)


def test_a_second_interrupt_kills_every_process_although_ranks_have_their_own_session(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "30")
    monkeypatch.setenv("FAKE_CHILD", "1")

    def interrupt_twice() -> None:
        while not run.log(1).is_file() or "child " not in run.log(1).read_text():
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    outcome = attempt(run)
    thread.join()
    assert outcome.verdict is None
    assert outcome.returncode == -signal.SIGKILL
    assert not is_alive(child_of(run))


def test_a_crash_has_a_status_and_no_verdict(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CRASH_AT", "3")
    outcome = attempt(run)
    assert (outcome.returncode, outcome.verdict) == (1, None)


def test_a_display_that_fails_stops_the_run_and_leaves_nothing_behind(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    seen = Seen()

    def fail() -> None:
        raise BrokenPipeError

    seen.on_record = fail
    with pytest.raises(BrokenPipeError):
        attempt(run, seen)
    verdict = run.verdict()
    assert verdict is not None
    assert verdict.outcome == AttemptOutcome.STOPPED
    assert not run.is_active


def test_a_locked_run_is_not_trained_twice(run: RunDir) -> None:
    with run.hold(), pytest.raises(UserError, match="another process is training this run"):
        attempt(run)
    assert run.attempt == 0


def test_the_processes_of_a_run_end_with_the_launcher(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    monkeypatch.setenv("FAKE_CHILD", "rank")
    program = (
        "import sys; from pathlib import Path\n"
        "from gemfit.rundir import RunDir; from gemfit_launch.runs.local import carry_out\n"
        "from gemfit_launch.output.progress import Lines\n"
        "run = RunDir.open(Path(sys.argv[1])); carry_out(run, run.plan(), Lines(10))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program, str(run.root)], stdout=subprocess.DEVNULL)
    wait_until(lambda: run.log(1).is_file() and "bound" in run.log(1).read_text())
    child = child_of(run)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not is_alive(child) and not run.is_active)
    assert run.verdict() is None


RANK = """
import os, sys, time
from gemfit.core.stop_signals import end_with_launcher
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
end_with_launcher()
print("trains")
"""
LAUNCH_COMMAND = """
import os, subprocess, sys
rank, ends = sys.argv[1], sys.argv[2] == "ends"
started = subprocess.Popen([sys.executable, "-c", rank, str(os.getpid() if ends else 0)])
sys.exit(0 if ends else started.wait() != 0)
"""


@pytest.mark.parametrize(
    ("launcher", "command", "printed"),
    [("lives", "lives", "trains\n"), ("has ended", "lives", ""), ("lives", "ends", "")],
)
def test_a_rank_whose_launcher_or_command_has_ended_before_it_was_bound_to_it_ends(
    launcher: str, command: str, printed: str
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    env = os.environ | {LAUNCHER_VARIABLE: str(os.getpid() if launcher == "lives" else gone.pid)}
    argv = [sys.executable, "-c", LAUNCH_COMMAND, RANK, command]
    # Its output ends with the last of its processes.
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == printed


def test_accelerate_is_started_by_this_interpreter_with_paths_filled_in(plan: Plan) -> None:
    argv = command_line(plan, Path("/runs/a b"), port=1234, stop_at=None)
    assert argv[:5] == [sys.executable, "-m", "gemfit.train.accelerate_launch", "--main_process_port", "1234"]
    assert argv[5:] == ["--config_file", "/runs/a b/accelerate.yaml", "-m", "gemfit.train", "/runs/a b"]


def test_the_environment_of_another_launcher_is_not_inherited(plan: Plan) -> None:
    base = {"RANK": "1", "WORLD_SIZE": "9", "MASTER_ADDR": "x", "ACCELERATE_USE_FSDP": "1", "HOME": "/home"}
    env = environment(plan, base | {"SLURM_JOB_ID": "7"}, attempt=2, port=99)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_FSDP", "SLURM_JOB_ID"} & set(env)
    assert env["HOME"] == "/home"
    assert (env["GEMFIT_ATTEMPT"], env["MASTER_PORT"], env["OMP_NUM_THREADS"]) == ("2", "99", "1")


@pytest.mark.parametrize(
    ("base", "threads", "allocator"),
    [
        ({}, "8", "expandable_segments:True"),
        ({"OMP_NUM_THREADS": "3"}, "3", "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "8", "backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "8", None),
    ],
)
def test_gpu_ranks_share_the_cores_of_their_machine_unless_the_user_decides(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, base: dict[str, str], threads: str, allocator: str | None
) -> None:
    monkeypatch.setattr("gemfit_launch.runs.local.available_cores", lambda: 32)
    topology = Topology(nodes=2, ranks_per_node=4, device="cuda")
    gpu_plan = make_plan(plan.recipe, topology=topology, pack=plan.pack, rows=100, rows_are_packed=True)
    env = environment(gpu_plan, base, attempt=1, port=99)
    assert (env["OMP_NUM_THREADS"], env.get("PYTORCH_ALLOC_CONF")) == (threads, allocator)


def test_descendants_are_found_across_sessions() -> None:
    program = (
        "import subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(30)']\n"
        "child = subprocess.Popen(sleep, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert descendants(parent.pid) == [child]
        assert parent.pid in descendants(os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


def child_of(run: RunDir) -> int:
    return int(run.log(1).read_text().partition("child ")[2].split()[0])


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """True unless the process is gone or a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
