"""Partitions, nodes and settings of a cluster, by three calls of scontrol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.scontrol_text import comma_list, pairs, parse_gpus
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.states import NodeState, NodeUse, parse_node_state

KILL_WAIT_SECONDS = 30
"""Slurm's default."""
Preemption = Literal["off", "requeue", "cancel", "suspend"]
UNLIMITED = ("UNLIMITED", "NONE", "INFINITE", "N/A", "")


@dataclass(frozen=True, slots=True)
class Admission:
    """Names of accounts or QOS that a partition accepts."""

    allowed: tuple[str, ...] | None = None
    """`None`: all but those ``denied``."""
    denied: tuple[str, ...] = ()

    def admits(self, name: str) -> bool:
        """Whether jobs of ``name`` are accepted; Slurm ignores case."""
        denied = name.lower() in map(str.lower, self.denied)
        return not denied and (self.allowed is None or name.lower() in map(str.lower, self.allowed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A partition and its limits; ``None`` is no limit."""

    name: str
    is_default: bool
    is_up: bool
    min_nodes: int
    max_nodes: int | None
    max_cpus_per_node: int | None
    max_memory_per_node: int | None
    """In MiB."""
    accounts: Admission
    qos: Admission
    max_seconds: int | None
    default_seconds: int | None
    """Limit of a job that asks for none; ``None``: ``max_seconds``."""
    preemption: Preemption
    grace_seconds: int
    has_whole_nodes: bool
    """Whether a job gets all CPUs of its nodes."""
    has_cpus_per_gpu: bool
    """Whether a job gets CPUs with its GPUs, without asking for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node as it is configured."""

    name: str
    address: str
    state: NodeState
    partitions: tuple[str, ...]
    cpus: int
    memory_megabytes: int
    """What jobs may use: RealMemory without MemSpecLimit."""
    gpus: dict[str, int]
    """Number by kind; the kind is empty where the cluster names none."""
    features: tuple[str, ...]

    @property
    def accepts_jobs(self) -> bool:
        """Whether it is known to accept jobs, now or after its current one."""
        return self.state.accepts_jobs is NodeUse.YES

    @property
    def num_gpus(self) -> int:
        return sum(self.gpus.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A snapshot of a cluster."""

    settings: dict[str, str]
    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.settings.get("ClusterName", "cluster")

    @property
    def kill_wait_seconds(self) -> int:
        """Seconds from SIGTERM to SIGKILL."""
        found = re.match(r"[0-9]+", self.settings.get("KillWait", ""))
        return int(found[0]) if found is not None else KILL_WAIT_SECONDS

    @property
    def default_partition(self) -> str | None:
        return default_partition(self.partitions)

    @property
    def preempts_by_qos(self) -> bool:
        """Whether the QOS decides which jobs are preempted, how, and with what notice."""
        return self.settings.get("PreemptType") == "preempt/qos"

    @property
    def refusal(self) -> str:
        """What follows where a job exceeds a limit of its partition, as the end of a sentence."""
        if self.settings.get("EnforcePartLimits", "NO") == "NO":
            return "Slurm takes such a job, which then waits for ever (EnforcePartLimits=NO)"
        return "sbatch refuses such a job"

    @property
    def allocates_cpus(self) -> bool:
        """Whether jobs get single CPUs, not whole nodes."""
        return self.settings.get("SelectType") != "select/linear"

    def nodes_of(self, partition: str) -> list[Node]:
        return [node for node in self.nodes if partition in node.partitions]


def ask_cluster() -> Cluster:
    """The cluster that Slurm's commands reach from this machine; ``UserError`` without Slurm."""
    settings = dict(
        _setting(line) for line in commands.call(["scontrol", "show", "config"]).splitlines() if "=" in line
    )
    nodes = commands.call(["scontrol", "show", "node", "--all", "--oneliner"])
    return Cluster(
        settings=settings,
        partitions=ask_partitions(settings),
        nodes=tuple(parse_node(line) for line in nodes.splitlines() if "NodeName=" in line),
    )


def ask_partitions(settings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Partition]:
    """Every partition by name; ``settings`` of the cluster complete what a line does not contain."""
    shown = commands.call(["scontrol", "show", "partition", "--all", "--oneliner"])
    partitions = [parse_partition(line, settings) for line in shown.splitlines() if "PartitionName=" in line]
    return {partition.name: partition for partition in partitions}


def default_partition(partitions: Mapping[str, Partition]) -> str | None:
    """Name of the partition of jobs that name none."""
    return next((partition.name for partition in partitions.values() if partition.is_default), None)


def named_partitions(asked: str | None, partitions: Mapping[str, Partition]) -> list[str]:
    """Names in the `partition` of a site, of which Slurm takes the first that is free; else the default."""
    if asked is not None:
        return [name.strip() for name in asked.split(",")]
    default = default_partition(partitions)
    return [default] if default is not None else []


def parse_partition(line: str, settings: Mapping[str, str] = MappingProxyType({})) -> Partition:
    """One line of ``scontrol show partition --oneliner``."""
    shown = pairs(line)
    cluster_mode = settings.get("PreemptMode", "OFF")
    mode = shown.get("PreemptMode", cluster_mode) if preemption(cluster_mode) != "off" else "OFF"
    defaults = shown.get("JobDefaults", "") + settings.get("JobDefaults", "")
    return Partition(
        name=shown["PartitionName"],
        is_default=shown.get("Default") == "YES",
        is_up=shown.get("State") == "UP",
        min_nodes=_number(shown, "MinNodes") or 0,
        max_nodes=_number(shown, "MaxNodes"),
        max_cpus_per_node=_number(shown, "MaxCPUsPerNode"),
        max_memory_per_node=_number(shown, "MaxMemPerNode"),
        accounts=_admission(shown, "Accounts"),
        qos=_admission(shown, "Qos"),
        max_seconds=seconds(shown.get("MaxTime", "")),
        default_seconds=seconds(shown.get("DefaultTime", "")),
        preemption=preemption(mode),
        grace_seconds=_number(shown, "GraceTime") or 0,
        has_whole_nodes="EXCLUSIVE" in shown.get("OverSubscribe", "")
        or shown.get("Exclusive") in ("YES", "NODE"),
        has_cpus_per_gpu="DefCpuPerGPU" in defaults,
    )


def _number(shown: Mapping[str, str], key: str) -> int | None:
    """The number at ``key``; ``None`` for no limit, and a ``SlurmError`` for anything else."""
    text = shown.get(key, "")
    if text.upper() in UNLIMITED:
        return None
    if not re.fullmatch("[0-9]+", text):
        name = shown.get("PartitionName") or shown.get("NodeName")
        raise commands.SlurmError(f"scontrol: {name}: {key}={text} is not a number")
    return int(text)


def _admission(shown: Mapping[str, str], what: str) -> Admission:
    allowed = shown.get(f"Allow{what}", "ALL")
    denied = comma_list(shown.get(f"Deny{what}", ""))
    return Admission(None if allowed == "ALL" else comma_list(allowed), denied)


def preemption(mode: str) -> Preemption:
    """What happens to a preempted job, from ``PreemptMode`` such as ``REQUEUE`` or ``GANG,SUSPEND``."""
    words = mode.lower().split(",")
    found: list[Preemption] = [kind for kind in ("requeue", "cancel", "suspend") if kind in words]
    return found[0] if found else "off"


def parse_node(line: str) -> Node:
    """One line of ``scontrol show node --oneliner``."""
    shown = pairs(line)
    memory = _number(shown, "RealMemory") or 0
    return Node(
        name=shown["NodeName"],
        address=shown.get("NodeAddr", shown["NodeName"]),
        state=parse_node_state(shown.get("State", "UNKNOWN")),
        partitions=comma_list(shown.get("Partitions", "")),
        cpus=_number(shown, "CPUEfctv") or _number(shown, "CPUTot") or 1,
        memory_megabytes=max(0, memory - (_number(shown, "MemSpecLimit") or 0)),
        gpus=parse_gpus(comma_list(shown.get("Gres", ""))),
        features=comma_list(shown.get("AvailableFeatures", "")),
    )


def _setting(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()
