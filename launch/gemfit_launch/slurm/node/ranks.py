"""Supervise torchrun and the ranks of one machine: start, hang detection, stack dumps, kill.

torchrun ignores preemption signals; only ranks act on them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gemfit.core.atomic_file import write_atomic
from gemfit.core.launcher_environment import WATCHED_VARIABLE
from gemfit.core.stop_signals import PREEMPTION_SIGNALS, end_with_parent
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.left_over_ranks import LeftOverRanks
from gemfit_launch.runs.local import command_line, descendants, environment, kill_tree, start_times
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.node.watchdog import Watchdog
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, AttemptStart, read_sound
from gemfit_launch.slurm.sites.planned_site import site_of

POLL_SECONDS = 0.5
CHECK_SECONDS = 3.0
"""Interval of checks for other machines: each makes a few calls to a shared file system."""
TOGETHER_SECONDS = CHECK_SECONDS + 1.0
DUMP_SECONDS = 10.0
"""Time for ranks to write their stacks or errors before they are killed."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """This machine's part in an attempt."""

    run: RunDir
    plan: Plan
    files: AttemptFiles
    rank: int
    name: str
    host: str
    port: int
    interface: str | None = None
    """Network interface that reaches the other machines."""

    @property
    def token(self) -> str:
        """Unique to the attempt, so that ranks of another attempt or run cannot join."""
        return f"{self.plan.digest}.{self.files.attempt}"

    def failed_elsewhere(self) -> bool:
        """Whether another machine has ended without success."""
        return any(end.status for end in self.files.node_ends() if end.rank != self.rank)


def train(machine: Machine, log: IO[bytes]) -> tuple[int, str]:
    """Run the plan's launcher; returns its exit status, and why it was ended by this process, if it was."""
    # Ranks whose launcher dies become children of this process, which can then end them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watchdog = Watchdog(Tail.from_end(machine.run.metrics_file), site_of(machine.plan).hang_seconds)
    process = subprocess.Popen(
        launcher_argv(machine),
        env=launcher_environment(machine, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=_prepare_launcher,
    )
    reason = watch(machine, process, watchdog)
    for orphan in descendants(os.getpid()):
        kill_tree(orphan)
    return process.returncode, reason


def launcher_argv(machine: Machine) -> list[str]:
    """The plan's command for this machine."""
    argv = command_line(
        machine.plan,
        machine.run.root.resolve(),
        port=machine.port,
        stop_at=None,
        allowed_changes=machine.run.attempt_record(machine.files.attempt).allowed_changes,
    )
    if machine.plan.topology.nodes == 1:
        return argv
    split = argv.index("--main_process_port")
    where = ["--machine_rank", str(machine.rank), "--main_process_ip", machine.host]
    return [*argv[:split], *where, *argv[split:]]


def launcher_environment(machine: Machine, base: Mapping[str, str]) -> dict[str, str]:
    """``base`` for the launcher and its ranks.

    torchrun does not handle the two signals, so they stay ignored in it and only ranks act on them.
    """
    variables = environment(machine.plan, base, attempt=machine.files.attempt, port=machine.port)
    return (
        gloo_default(machine.interface)
        | variables
        | start_times(_attempt_began(machine))
        | {
            "PET_SIGNALS_TO_HANDLE": "SIGINT",
            "PET_RDZV_ID": machine.token,
            WATCHED_VARIABLE: "1",
            "PYTHONFAULTHANDLER": "1",  # SIGABRT writes the stacks of all threads
        }
    )


def _attempt_began(machine: Machine) -> float:
    """When the batch script began the attempt; without its record, now."""
    start = read_sound(AttemptStart, machine.files.start)
    return start.time if start is not None else time.time()


def gloo_default(interface: str | None) -> dict[str, str]:
    """The interface that gloo binds to where the environment does not say which.

    gloo would take the address that the host's own name resolves to, 127.0.1.1 on many systems. NCCL selects
    interfaces by itself.
    """
    return {"GLOO_SOCKET_IFNAME": interface} if interface is not None else {}


def watch(machine: Machine, process: subprocess.Popen[bytes], watchdog: Watchdog) -> str:
    """Wait for the launcher; returns why it was ended, empty if it ended by itself."""
    next_check = time.monotonic() + CHECK_SECONDS
    ranks = LeftOverRanks(machine.run, process.pid, machine.plan.topology.ranks_per_node)
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
        if time.monotonic() < next_check:
            continue
        next_check = time.monotonic() + CHECK_SECONDS
        ranks.look()
        silence = watchdog.silence_beyond_limit() if machine.rank == 0 else None
        if silence is not None:
            write_atomic(machine.files.hang, f"no step for {silence:.0f} seconds\n")
        if machine.files.hang.is_file():
            _wait_for_the_others(machine.files.hang)
            dump_stacks(process)
            _end_ranks(process)
            return f"hung: {machine.files.hang.read_text().strip()}; the stacks of all ranks are in the log"
        if machine.failed_elsewhere():
            _wait(process, DUMP_SECONDS)
            _end_ranks(process)
            return "ended because another node had failed"
    return ""


def _wait_for_the_others(hang: Path) -> None:
    """Wait until every machine has seen the hang file: ranks die when ranks elsewhere die."""
    age = time.time() - hang.stat().st_mtime
    time.sleep(min(max(TOGETHER_SECONDS - age, 0.0), TOGETHER_SECONDS))


def dump_stacks(process: subprocess.Popen[bytes]) -> None:
    """Send SIGABRT to each rank, which writes the stacks of its threads into the log and ends."""
    for rank in descendants(process.pid):
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGABRT)
            os.kill(rank, signal.SIGCONT)  # for a stopped process
    _wait(process, DUMP_SECONDS)


def _end_ranks(process: subprocess.Popen[bytes]) -> None:
    kill_tree(process.pid)
    process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _prepare_launcher() -> None:
    end_with_parent(signal.SIGKILL)
    for number in PREEMPTION_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # stacks in the log, no core dumps
