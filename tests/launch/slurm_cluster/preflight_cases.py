"""Output of scontrol, a plan at a site, and the errors of a preflight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemfit.schemas.check import CheckResult
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.slurm.cluster.cluster import (
    Node,
    parse_node,
)

NODE = (
    "NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 AvailableFeatures=h100,nvlink "
    "Gres=gpu:h100:8(S:0-1),nvme:1 NodeAddr=10.0.0.1 NodeHostName=g1 OS=Linux 6.1 #1 SMP Debian "
    "RealMemory=1000000 State=MIXED+PLANNED Partitions=gpu,all Reason=it's odd [root@2026-01-01]"
)


PARTITION = (
    "PartitionName=gpu AllowAccounts=ALL Default=YES QoS=N/A GraceTime=120 MaxNodes=4 "
    "MaxTime=2-00:00:00 Nodes=g[1-4] PreemptMode=REQUEUE State=UP TotalNodes=4"
)


REQUEUE = {"PreemptMode": "REQUEUE"}


def gpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name)


def cpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name, gpus={}, features=(), partitions=("cpu",), cpus=32)


def planned(plan: Plan, nodes: int = 2, **site: Any) -> Plan:
    made = Site.model_validate({"name": "big", "partition": "gpu", "gpus_per_node": 8, **site})
    return plan.model_copy(update={"site": made, "topology": ranks_at(made, nodes)})


def errors(results: list[CheckResult]) -> list[tuple[str, str]]:
    return [(result.name, result.found) for result in results if result.state == "error"]
