"""Lines that Slurm 22.05.8 and 26.05.5 print, as the launcher reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.cluster import parse_node, parse_partition
from gemfit_launch.slurm.cluster.pending_reason import explain
from gemfit_launch.slurm.states import NodeUse

# 22.05.8
PARTITION = (
    "PartitionName=lowcancel AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO "
    "QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-4] PriorityJobFactor=1 "
    "PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=CANCEL State=UP "
    "TotalCPUs=16 TotalNodes=4 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED "
    "MaxMemPerNode=UNLIMITED TRES=cpu=16,mem=16000M,node=4,billing=16"
)
NODE = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=9.86 "
    "AvailableFeatures=(null) ActiveFeatures=(null) Gres=gpu:2 NodeAddr=127.0.0.1 NodeHostName=vm Port=28731 "
    "Version=22.05.8 OS=Linux 6.18 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=4000 AllocMem=0 FreeMem=14907 "
    "Sockets=4 Boards=1 State=IDLE ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A "
    "Partitions=low,lowgrace,lowcancel,high  BootTime=2026-11-30T07:54:27 CfgTRES=cpu=4,mem=4000M,billing=4 "
    "AllocTRES= CapWatts=n/a CurrentWatts=0 ExtSensorsTemp=n/s"
)


def test_a_partition_is_read() -> None:
    partition = parse_partition(PARTITION, {"PreemptMode": "REQUEUE"})
    assert (partition.name, partition.is_default, partition.is_up) == ("lowcancel", False, True)
    assert (partition.max_nodes, partition.max_seconds, partition.default_seconds) == (None, None, None)
    assert (partition.preemption, partition.grace_seconds) == ("cancel", 0)
    assert (partition.has_whole_nodes, partition.has_cpus_per_gpu) == (False, False)


@pytest.mark.parametrize(
    ("state", "use"),
    [("IDLE", NodeUse.YES), ("IDLE+CLOUD+POWERED_DOWN", NodeUse.YES), ("DOWN+NOT_RESPONDING", NodeUse.NO)],
)
def test_a_node_is_read(state: str, use: NodeUse) -> None:
    node = parse_node(NODE.replace("State=IDLE", f"State={state}"))
    assert (node.name, node.address, node.cpus, node.gpus) == ("n1", "127.0.0.1", 4, {"": 2})
    assert (node.memory_megabytes, node.features, len(node.partitions)) == (4000, (), 4)
    assert (node.state.text, node.state.accepts_jobs) == (state, use)


@pytest.mark.parametrize(
    ("line", "state", "phase", "reason"),
    [
        ("6|CANCELLED|2026-11-30T09:25:10|None|wrap", "CANCELLED", "ended", "None"),
        ("1|PENDING|2026-11-30T09:25:29|BeginTime|a|b", "PENDING", "pending", "BeginTime"),
        ("4|PREEMPTED|2026-11-30T09:25:10|None|mc", "PREEMPTED", "ended", "None"),
        ("7|SPECIAL_EXIT|N/A|job requeued in held state|x", "SPECIAL_EXIT", "pending", "held"),
        ("  8|RUNNING|2026-11-30T09:25:10|None|x  \r", "RUNNING", "running", "None"),
    ],
)
def test_a_line_of_squeue_is_read(line: str, state: str, phase: str, reason: str) -> None:
    assert commands.JOB_LINE.match(line)
    job = commands.parse_job(line)
    assert (job.state.text, job.state.phase) == (state, phase)
    assert reason in explain(job.reason)
    assert job.name == line.rstrip("\r").split("|", 4)[4]


@pytest.mark.parametrize("line", ["6|RUNNING|No", "6|", "6|RUNNING|2026-11-30T09:25:10|None"])
def test_a_line_of_squeue_that_is_cut_is_not_taken_for_a_job_that_has_ended(line: str) -> None:
    assert commands.JOB_LINE.match(line)
    with pytest.raises(UserError, match="squeue: printed '6"):
        commands.parse_job(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [("GraceTime", "00:02"), ("MaxNodes", "1K"), ("MinNodes", "-1"), ("MaxMemPerNode", "4G")],
)
def test_a_number_of_a_partition_that_cannot_be_read_is_named(field: str, value: str) -> None:
    line = PARTITION.replace(f"{field}=", f"Old{field}=") + f" {field}={value}"
    with pytest.raises(UserError, match=f"scontrol: lowcancel: {field}={value} is not a number"):
        parse_partition(line)


@pytest.mark.parametrize("line", ["Welcome to the cluster | have fun", "2026", "|||||", ""])
def test_a_line_of_a_wrapper_is_none_of_squeue(line: str) -> None:
    assert commands.JOB_LINE.match(line) is None


def test_a_name_in_unicode_is_read_in_every_locale(tmp_path: Path) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho '8|RUNNING|N/A|None|L\u00e4ufe \u20ac'\n", encoding="utf-8")
    squeue.chmod(0o755)
    code = "from gemfit_launch.slurm import commands; print(ascii(commands.jobs([8])[8].name))"
    bare = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "'L\\xe4ufe \\u20ac'\n"
