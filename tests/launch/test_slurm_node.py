"""One machine of an attempt: its health, its meeting with the others, its watch over progress."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fake_nvidia_smi import GB10, TWO_H100, FakeNvidiaSmi, nvidia_smi
from gemfit.core.nvidia_smi import parse_rows, selected_rows
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.exit_report import FailedRank
from gemfit_launch.runs.local import free_port
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.node import node
from gemfit_launch.slurm.node.health_check import (
    MEMORY_FIELDS,
    find_faults,
    memory_faults,
)
from gemfit_launch.slurm.node.node import run_and_record, run_node
from gemfit_launch.slurm.node.ranks import Machine, launcher_argv, launcher_environment
from gemfit_launch.slurm.node.rendezvous import PeerError, _join, _Patience, rendezvous
from gemfit_launch.slurm.node.running_clock import RunningClock
from gemfit_launch.slurm.node.watchdog import START_FACTOR, USUAL_STEP_FACTOR, Watchdog
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, NodeEnd
from gemfit_launch.slurm.submit.snapshot_code import code_folder, snapshot_code

__all__ = ["nvidia_smi"]


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    return RunDir.create(tmp_path / "run", plan)


def machine(run: RunDir, plan: Plan, *, rank: int = 1, nodes: int = 2) -> Machine:
    plan = plan.model_copy(update={"topology": plan.topology.model_copy(update={"nodes": nodes})})
    return Machine(run=run, plan=plan, files=AttemptFiles(run, 3), rank=rank, name="n1", host="n0", port=77)


def visit(port: int, rank: int, nodes: int, token: str = "t", seconds: float = 5) -> str | None:
    def failed() -> bool:
        return False

    return rendezvous(
        rank=rank,
        nodes=nodes,
        host="127.0.0.1",
        port=port,
        token=token,
        failed=failed,
        patience_seconds=seconds,
    )


def test_machines_go_on_together_and_leave_the_port_free() -> None:
    port, done, addresses = free_port(), [], []

    def go(rank: int) -> None:
        addresses.append(visit(port, rank, 3))
        done.append(time.monotonic())

    threads = [threading.Thread(target=go, args=(rank,)) for rank in (2, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert not done, "they wait for machine 0"
    addresses.append(visit(port, 0, 3))
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert addresses == ["127.0.0.1"] * 3
    with_reuse = subprocess.run(
        [sys.executable, "-c", f"import socket; socket.create_server(('', {port}))"], check=False
    )
    assert with_reuse.returncode == 0


def test_a_machine_that_does_not_come_is_named() -> None:
    with pytest.raises(PeerError, match="machine 1 did not join"):
        visit(free_port(), 0, 2, seconds=0.5)


def test_a_machine_of_another_attempt_is_not_let_in() -> None:
    port = free_port()
    stranger = threading.Thread(target=_expect_refusal, args=(port,))
    stranger.start()
    with pytest.raises(PeerError, match="machine 1 did not join"):
        visit(port, 0, 2, seconds=1.5)
    stranger.join()


def _expect_refusal(port: int) -> None:
    with pytest.raises(PeerError):
        visit(port, 1, 2, token="another", seconds=1.5)


def test_no_node_waits_for_a_machine_that_has_failed() -> None:
    with pytest.raises(PeerError, match="another node has failed"):
        rendezvous(rank=0, nodes=2, host="127.0.0.1", port=free_port(), token="t", failed=lambda: True)


def test_the_launcher_of_each_machine_gets_its_rank_and_the_rendezvous_address(
    run: RunDir, plan: Plan
) -> None:
    run.begin_attempt()
    argv = launcher_argv(machine(run, plan))
    assert argv[argv.index("--machine_rank") + 1] == "1"
    assert argv[argv.index("--main_process_ip") + 1] == "n0"
    assert argv[argv.index("--main_process_port") + 1] == "77"
    assert argv.index("--machine_rank") < argv.index("--config_file") < argv.index("gemfit.train")


def test_a_collective_outlasts_a_suspension_where_the_supervisor_ends_hangs(run: RunDir, plan: Plan) -> None:
    program = "from gemfit.train.collective import COLLECTIVE_TIMEOUT; print(COLLECTIVE_TIMEOUT.days)"
    days = subprocess.check_output(
        [sys.executable, "-c", program], env=launcher_environment(machine(run, plan), os.environ), text=True
    )
    assert int(days) >= 7


def test_ranks_of_another_attempt_cannot_join(run: RunDir, plan: Plan) -> None:
    mine = launcher_environment(machine(run, plan), {"SLURM_NODEID": "1", "HOME": "/root"})
    assert mine["PET_RDZV_ID"].endswith(".3")
    assert mine["GEMFIT_ATTEMPT"] == "3"
    assert mine["HOME"] == "/root"
    assert "SLURM_NODEID" not in mine


def test_gloo_gets_the_interface_between_machines_unless_the_user_names_one(run: RunDir, plan: Plan) -> None:
    found = replace(machine(run, plan), interface="ib0")
    assert launcher_environment(found, {})["GLOO_SOCKET_IFNAME"] == "ib0"
    assert launcher_environment(found, {"GLOO_SOCKET_IFNAME": "eth1"})["GLOO_SOCKET_IFNAME"] == "eth1"
    assert "NCCL_SOCKET_IFNAME" not in launcher_environment(found, {})
    assert "GLOO_SOCKET_IFNAME" not in launcher_environment(machine(run, plan), {})


def test_another_machine_that_failed_is_noticed(run: RunDir, plan: Plan) -> None:
    me = machine(run, plan)
    for rank, status, noticed in ((1, 1, False), (0, 0, False), (0, 1, True)):
        end = NodeEnd(node="n", rank=rank, stage="training", status=status, time=0.0)
        me.files.write(me.files.node(rank), end)
        assert me.failed_elsewhere() is noticed


def test_a_survivor_waits_for_a_verdict_until_another_machine_has_ended_without_one(
    run: RunDir, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, looked = machine(run, plan), threading.Event()
    monkeypatch.setattr(node, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(RunDir, "verdict", lambda run: looked.set())

    def fail() -> None:
        looked.wait()
        end = NodeEnd(node="n0", rank=0, stage="training", status=1, time=0.0)
        me.files.write(me.files.node(0), end)

    other = threading.Thread(target=fail)
    other.start()
    assert not node._has_verdict(me, float("inf"))
    other.join()


@pytest.mark.parametrize(
    ("rank", "status", "failed", "seconds"),
    [
        (1, 1, FailedRank(3, 75), node.VERDICT_SECONDS),
        (1, 1, FailedRank(3, 2), node.VERDICT_SECONDS),
        (1, 1, None, node.VERDICT_SECONDS),
        (1, 1, FailedRank(3, 1), node.CRASH_SECONDS),
        (1, 1, FailedRank(3, -6), node.CRASH_SECONDS),
        (1, 0, None, 0.0),
        (0, 1, FailedRank(0, 75), 0.0),  # the verdict was written on this machine
    ],
)
def test_a_verdict_is_waited_for_where_ranks_end_as_with_one(
    rank: int, status: int, failed: FailedRank | None, seconds: float
) -> None:
    assert node.verdict_seconds(rank, status, failed) == seconds


def test_a_healthy_node_has_no_faults(run: RunDir, plan: Plan) -> None:
    assert find_faults(run, plan) == []
    assert list(run.logs.iterdir()) == []


def test_a_node_that_cannot_write_into_the_run_folder_is_found(run: RunDir, plan: Plan) -> None:
    run.logs.rmdir()
    (fault,) = find_faults(run, plan)
    assert "cannot be written" in fault


HEALTHY = "0, GPU-a, Disabled, 400, 81559\n1, GPU-b, Disabled, 3, 81559\n"


@pytest.mark.parametrize(
    ("table", "visible", "faults"),
    [
        (HEALTHY, None, []),
        (
            HEALTHY.replace(" 3,", " 70000,"),
            None,
            ["GPU 1 has 70000 of 81559 MiB in use before training begins"],
        ),
        (HEALTHY.replace(" 3,", " 70000,"), "0", []),
        (HEALTHY.replace(" 3,", " 70000,"), "GPU-a", []),
        ("0, GPU-a, Enabled, 70000, 81559\n", "MIG-x", []),
        ("0, GPU-a, Enabled, 70000, 81559\n", None, []),
        ("0, GPU-a, [N/A], [N/A], [N/A]\n", None, []),
        ("0, GPU-a, [Not Supported], 3, 49140\n", None, []),
        ("0, GPU-a, Disabled, [Insufficient Permissions], [Insufficient Permissions]\n", None, []),
        (
            "0, GPU-a, Disabled, [GPU requires reset], 81559\n",
            None,
            ["GPU 0 is out of order: 0, GPU-a, Disabled, [GPU requires reset], 81559"],
        ),
    ],
)
def test_memory_in_use_and_broken_gpus_are_faults_and_missing_values_are_none(
    table: str, visible: str | None, faults: list[str]
) -> None:
    rows = parse_rows(table, MEMORY_FIELDS)
    assert list(memory_faults(selected_rows(rows, visible))) == faults


def on_gpus(plan: Plan) -> Plan:
    topology = plan.topology.model_copy(update={"device": "cuda"})
    return plan.model_copy(update={"topology": topology})


def test_a_gpu_node_is_judged_by_its_driver(run: RunDir, plan: Plan, nvidia_smi: FakeNvidiaSmi) -> None:
    nvidia_smi.prints(HEALTHY, listing=TWO_H100)
    assert find_faults(run, on_gpus(plan)) == []
    nvidia_smi.prints("0, GPU-a, [N/A], [N/A], [N/A]\n", listing=GB10)
    assert find_faults(run, on_gpus(plan)) == ["2 GPUs are needed and 1 are visible"]
    nvidia_smi.prints("Failed to initialize NVML: Unknown Error\n", status=255)
    assert find_faults(run, on_gpus(plan)) == ["nvidia-smi fails: Failed to initialize NVML: Unknown Error"]


def test_a_hung_nvidia_smi_is_a_fault_of_the_node(
    run: RunDir, plan: Plan, nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.hangs()
    monkeypatch.setattr("gemfit_launch.slurm.node.health_check.NVIDIA_SMI_SECONDS", 0.2)
    end = run_node(machine(run, on_gpus(plan)))
    assert (end.stage, end.status, end.at_fault) == ("health", 1, True)
    assert end.reason == "nvidia-smi does not answer within 0 s"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("could not convert"), "the node supervisor failed: ValueError('could not convert')"),
        (KeyboardInterrupt(), "the node supervisor was interrupted"),
    ],
)
def test_a_supervisor_that_fails_leaves_an_end_record(
    run: RunDir, plan: Plan, monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str
) -> None:
    def broken(run: RunDir, plan: Plan) -> list[str]:
        raise error

    me = machine(run, plan)
    monkeypatch.setattr("gemfit_launch.slurm.node.node.find_faults", broken)
    with suppress(KeyboardInterrupt):
        assert run_and_record(me).status == 1
    assert [(end.rank, end.status, end.reason) for end in me.files.node_ends()] == [(1, 1, reason)]


def record(step: int, seconds: float) -> str:
    return StepRecord(
        attempt=1,
        step=step,
        epoch=0.0,
        loss=1.0,
        learning_rate=0.0,
        grad_norm=None,
        tokens_per_second=1.0,
        time=seconds,
        rows_digest="",
    ).model_dump_json()


def test_silence_counts_from_the_last_step_and_against_the_usual_one(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    watchdog = Watchdog(Tail(metrics), hang_seconds=30, clock=0.0)
    start = 30.0 * START_FACTOR
    assert watchdog.silence_beyond_limit(now=start) is None
    assert watchdog.silence_beyond_limit(now=start + 1) == start + 1
    metrics.write_text("".join(f"{record(step, 10.0 * step)}\n" for step in range(5)))
    assert watchdog.silence_beyond_limit(now=40.0) is None
    assert watchdog.silence_beyond_limit(now=40.0 + 10 * USUAL_STEP_FACTOR) is None
    assert watchdog.silence_beyond_limit(now=41.0 + 10 * USUAL_STEP_FACTOR) == 201.0


@pytest.mark.parametrize("suspended", [31.0, 300.0, 86_400.0])
@pytest.mark.parametrize("silence", [0.0, 10.0, 29.0])
def test_a_suspension_is_not_silence(suspended: float, silence: float, tmp_path: Path) -> None:
    metrics, now = tmp_path / "metrics.jsonl", [1000.0]
    watchdog = Watchdog(Tail(metrics), hang_seconds=30, running=RunningClock(lambda: now[0]))
    metrics.write_text(f"{record(1, 0.0)}\n{record(2, 1.0)}\n")
    assert watchdog.silence_beyond_limit() is None
    for step in (silence, suspended):
        now[0] += step
        assert watchdog.silence_beyond_limit() is None
    now[0] += 30.0 - silence
    assert watchdog.silence_beyond_limit() is None, "30 seconds of silence are allowed"
    now[0] += 1
    assert watchdog.silence_beyond_limit() == pytest.approx(31.0), "a hang is still found"


def test_a_suspension_does_not_end_the_rendezvous() -> None:
    offset = [0.0]
    real = time.monotonic
    port, joined = free_port(), []
    clock = RunningClock(lambda: real() + offset[0])
    patience = _Patience(5.0, lambda: False, clock)
    thread = threading.Thread(target=lambda: joined.append(_join(1, "127.0.0.1", port, "t", patience)))
    thread.start()
    time.sleep(0.3)
    offset[0] += 3600.0
    time.sleep(0.7)
    assert visit(port, 0, 2) == "127.0.0.1"
    thread.join()
    assert joined == ["127.0.0.1"]


def test_the_frozen_code_is_what_runs_whatever_happens_to_the_installed_one(run: RunDir) -> None:
    snapshot_code(run)
    snapshot_code(run)  # in place of the first copy
    assert not list(code_folder(run).rglob("*.pyc"))
    found = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import gemfit.train, gemfit_launch.slurm.node.node as n; print(n.__file__)",
        ],
        env={"PYTHONPATH": str(code_folder(run))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(code_folder(run)))
