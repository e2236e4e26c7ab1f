"""Run one attempt of a plan on this machine, from the lock to the verdict.

The processes get a session of their own, so Ctrl-C reaches only the launcher, which asks them to save
and stop through the stop file: each rank sees it once, and torchrun stays alive.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from gemfit.core.available_cores import available_cores
from gemfit.core.launcher_environment import COMMAND_TIME, LAUNCH_TIME, without_launcher_variables
from gemfit.core.process_start import process_start_time
from gemfit.core.stop_signals import LAUNCHER_VARIABLE, STOP_SIGNALS, end_with_parent, handling
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import Record
from gemfit.schemas.plan import Plan
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.write_configs import in_folder, write_configs
from gemfit_launch.runs.left_over_ranks import LeftOverRanks
from gemfit_launch.runs.metrics_tail import Tail

POLL_SECONDS = 0.2
LOCK_PATIENCE_SECONDS = 1.0
"""`gemfit status` takes the lock briefly to see whether it is free."""


class ProgressView(Protocol):
    """Display of the progress of an attempt."""

    def show(self, records: list[Record]) -> None:
        """Show the records since the last call."""

    def say(self, line: str) -> None:
        """Show a line of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """Exit status and verdict of an attempt."""

    attempt: int
    returncode: int
    """Of the launched command; negative for a signal."""
    verdict: Verdict | None
    """``None`` after a crash."""


def carry_out(
    run: RunDir,
    plan: Plan,
    watch: ProgressView,
    *,
    stop_at: int | None = None,
    allowed_changes: Collection[str] = (),
) -> AttemptResult:
    """Train until the attempt completes, stops or crashes.

    A ``plan`` that differs from the run's own replaces it. Raises ``UserError`` while another process
    trains this run.
    """
    with run.hold(patience_seconds=LOCK_PATIENCE_SECONDS) as lock:
        run.adopt(plan)
        write_configs(run, plan)
        attempt, port = run.begin_attempt(allowed_changes), free_port()
        tail = Tail.from_end(run.metrics_file)  # before anything can be written
        with run.log(attempt).open("ab") as log:
            process = subprocess.Popen(
                command_line(
                    plan,
                    run.root.resolve(),
                    port=port,
                    stop_at=stop_at,
                    allowed_changes=run.attempt_record(attempt).allowed_changes,
                ),
                env=environment(plan, os.environ, attempt=attempt, port=port)
                | start_times(process_start_time()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: end_with_parent(signal.SIGKILL),
                pass_fds=(lock,),  # the run stays held while its processes live
            )
        with stop_on_signals(run, process.pid, watch.say):
            follow(run, process, tail, watch)
        run.end_attempt(attempt)
        return AttemptResult(attempt=attempt, returncode=process.returncode, verdict=run.verdict())


def command_line(
    plan: Plan, run_dir: Path, *, port: int, stop_at: int | None, allowed_changes: Collection[str] = ()
) -> list[str]:
    """argv of the plan's command, run by this interpreter instead of the one on PATH."""
    argv: list[str] = in_folder(plan.command, str(run_dir))
    if argv[:2] == ["accelerate", "launch"]:
        launch = [sys.executable, "-m", "gemfit.train.accelerate_launch"]
        argv = [*launch, "--main_process_port", str(port), *argv[2:]]
    return [*argv, *to_argv({"stop_at": stop_at, "allow_changed": tuple(allowed_changes)})]


def environment(plan: Plan, base: Mapping[str, str], *, attempt: int, port: int) -> dict[str, str]:
    """``base`` without variables of other launchers, with those of the plan."""
    return {
        **(gpu_defaults(plan.topology.ranks_per_node, base) if plan.topology.device == "cuda" else {}),
        **without_launcher_variables(base),
        # A file of the working folder called datasets.py would be imported in place of the library.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        **plan.env,
        "GEMFIT_ATTEMPT": str(attempt),
        LAUNCHER_VARIABLE: str(os.getpid()),
        "MASTER_PORT": str(port),
    }


def start_times(command: float) -> dict[str, str]:
    """Variables for the first parts of a `StartRecord`: when the command began, and now."""
    return {COMMAND_TIME: repr(command), LAUNCH_TIME: repr(time.time())}


def gpu_defaults(ranks: int, base: Mapping[str, str]) -> dict[str, str]:
    """Variables for ``ranks`` GPU ranks of this machine where ``base`` does not set them."""
    # accelerate and torchrun would give each rank one thread: optimizers in host memory and the conversion
    # of weights while they are read would use one core per GPU.
    defaults = {"OMP_NUM_THREADS": str(max(1, available_cores() // ranks))}
    if "PYTORCH_CUDA_ALLOC_CONF" not in base:  # the older name
        # Logits of each batch have another size, which leaves gaps between segments of fixed size.
        defaults["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return defaults


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def follow(run: RunDir, process: subprocess.Popen[bytes], tail: Tail, watch: ProgressView) -> None:
    """Show new records until the process has ended.

    If they cannot be shown any more (a closed pipe), stops the run and waits for its end.
    """
    ranks = LeftOverRanks(run, process.pid, run.plan().topology.ranks_per_node)
    try:
        while process.poll() is None:
            watch.show(tail.read())
            ranks.look()
            time.sleep(POLL_SECONDS)
        watch.show(tail.read())
    except BaseException:
        run.request_stop()
        process.wait()
        raise


@contextmanager
def stop_on_signals(run: RunDir, pid: int, say: Callable[[str], None]) -> Iterator[None]:
    """Turn a signal into a request to save and stop; a second Ctrl-C kills instead."""
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts >= 2:
            say("killing the run; it goes back to its last checkpoint")
            kill_tree(pid)
            return
        run.request_stop()
        say("stopping: the run saves at its next step (Ctrl-C again kills it)")

    with handling(STOP_SIGNALS, handle):
        yield


def kill_tree(pid: int) -> None:
    """Kill a process and all below it: torchrun gives every rank a session of its own."""
    for victim in (pid, *descendants(pid)):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and the look
        # The name in parentheses may hold anything, so count from the last parenthesis.
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found
