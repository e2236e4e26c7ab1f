"""``python -m gemfit_launch.slurm.node.node RUN_DIR``: node supervisor of one attempt, started by ``srun``.

Health check, rendezvous with the other nodes, torchrun, signal handling, exit record.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from gemfit.core.host_name import host_name
from gemfit.core.network_interface import interface_addresses, interface_of
from gemfit.core.os_errors import explaining_os_errors
from gemfit.core.stop_signals import PREEMPTION_SIGNALS
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.runs.exit_report import FailedRank, first_failed_rank
from gemfit_launch.slurm.node.health_check import find_faults
from gemfit_launch.slurm.node.ranks import POLL_SECONDS, Machine, train
from gemfit_launch.slurm.node.rendezvous import PeerError, rendezvous
from gemfit_launch.slurm.records.job_attempts import STOP_TO_REQUEUE, AttemptFiles, NodeEnd, Stage

VERDICT_SECONDS, CRASH_SECONDS = 5.0, 1.0
"""Longest time to wait for a verdict: where ranks ended in the way that goes with one, and else."""
VERDICT_STATUSES = (ExitCode.DONE, ExitCode.STOPPED, ExitCode.USER_ERROR)
KILLED = "was killed"


def main() -> int:
    """Run this node's part of the attempt and write its exit record."""
    parser = argparse.ArgumentParser(prog="python -m gemfit_launch.slurm.node.node")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--host", required=True, help="address of machine 0")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    try:
        with explaining_os_errors():
            run = RunDir.open(arguments.run_dir)
            plan = run.plan()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    machine = Machine(
        run=run,
        plan=plan,
        files=AttemptFiles(run, arguments.attempt),
        rank=int(os.environ["SLURM_NODEID"]),
        name=host_name(),
        host=arguments.host,
        port=arguments.port,
    )
    install_signal_handlers(machine)
    end = run_and_record(machine)
    if end.status:
        sys.stderr.write(f"{machine.name}: {end.reason}\n")
    return end.status


def install_signal_handlers(machine: Machine) -> None:
    """Turn preemption signals into a stop file; one that exists already is kept."""

    def ask(number: int, frame: FrameType | None) -> None:
        try:
            with machine.run.stop_file.open("x") as stream:
                stream.write(f"{STOP_TO_REQUEUE}\n")
        except FileExistsError:
            return

    for number in PREEMPTION_SIGNALS:
        signal.signal(number, ask)


def run_and_record(machine: Machine) -> NodeEnd:
    """``run_node``, with an exit record whatever happens: the other nodes wait for it."""
    end = _end(machine, "training", 1, "the node supervisor was interrupted")
    try:
        end = run_node(machine)
    except Exception as error:
        traceback.print_exc()
        end = _end(machine, "training", 1, f"the node supervisor failed: {error!r}")
    finally:
        machine.files.write(machine.files.node(machine.rank), end)
    return end


def run_node(machine: Machine) -> NodeEnd:
    """Health check, rendezvous, training; ends at the first failure."""
    if faults := find_faults(machine.run, machine.plan):
        return _end(machine, "health", 1, "; ".join(faults), at_fault=True)
    try:
        address = rendezvous(
            rank=machine.rank,
            nodes=machine.plan.topology.nodes,
            host=machine.host,
            port=machine.port,
            token=machine.token,
            failed=machine.failed_elsewhere,
        )
    except (PeerError, OSError) as error:
        return _end(machine, "health", 1, str(error))
    with machine.files.log(machine.rank).open("ab") as log:
        status, reason = train(replace(machine, interface=reachable_interface(address)), log)
    failed = first_failed_rank(machine.files.log(machine.rank)) if status else None
    if _has_verdict(machine, verdict_seconds(machine.rank, status, failed)):
        return _end(machine, "training", 0, "")
    if not reason:
        reason = f"the launcher ended with status {status}" + (f"; {failed}" if failed else "")
    return _end(machine, "training", status or 1, reason, at_fault=KILLED in reason)


def reachable_interface(address: str | None) -> str | None:
    """The interface that reaches the other machines; ``None`` for a single machine."""
    return interface_of(address, interface_addresses()) if address is not None else None


def verdict_seconds(machine_rank: int, status: int, failed: FailedRank | None) -> float:
    """How long a verdict may still appear: a shared file system shows that of machine 0 late on the others.

    Ranks that end together with a verdict end with one of three statuses; any other is a crash, and then
    there is seldom one.
    """
    if status == 0 or machine_rank == 0:
        return 0.0
    return VERDICT_SECONDS if failed is None or failed.status in VERDICT_STATUSES else CRASH_SECONDS


def _has_verdict(machine: Machine, seconds: float) -> bool:
    """Whether the attempt has a verdict, or gets one in time.

    Nobody waits once another machine has ended without one.
    """
    deadline = time.monotonic() + seconds
    while True:
        verdict = machine.run.verdict()
        if verdict is not None and verdict.attempt == machine.files.attempt:
            return True
        if time.monotonic() >= deadline or machine.failed_elsewhere():
            return False
        time.sleep(POLL_SECONDS)


def _end(machine: Machine, stage: Stage, status: int, reason: str, *, at_fault: bool = False) -> NodeEnd:
    return NodeEnd(
        node=machine.name,
        rank=machine.rank,
        stage=stage,
        status=status,
        reason=reason,
        at_fault=at_fault,
        time=time.time(),
    )


if __name__ == "__main__":
    sys.exit(main())
