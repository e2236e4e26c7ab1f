"""Partitions, nodes and settings of a cluster, by three calls of scontrol."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gemfit_launch.slurm import commands
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.states import NodeState, NodeUse, parse_node_state

UNLIMITED = ("UNLIMITED", "NONE", "INFINITE", "n/a", "")
PAIR = re.compile(r"(?:^|(?<=\s))([A-Za-z_:]+)=(.*?)(?=\s+[A-Za-z_:]+=|\s*$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A partition and its limits; ``None`` is no limit."""

    name: str
    is_default: bool
    is_up: bool
    max_nodes: int | None
    max_seconds: int | None
    is_preemptible: bool
    grace_seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node as it is configured."""

    name: str
    address: str
    state: NodeState
    partitions: tuple[str, ...]
    cpus: int
    memory_megabytes: int
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
        return int(self.settings.get("KillWait", "30 sec").split()[0])

    @property
    def default_partition(self) -> str | None:
        return next((partition.name for partition in self.partitions.values() if partition.is_default), None)

    def nodes_of(self, partition: str) -> list[Node]:
        return [node for node in self.nodes if partition in node.partitions]


def ask_cluster() -> Cluster:
    """The cluster that Slurm's commands reach from this machine; ``UserError`` without Slurm."""
    settings = dict(
        _setting(line) for line in commands.call(["scontrol", "show", "config"]).splitlines() if "=" in line
    )
    mode = settings.get("PreemptMode", "OFF")
    shown = commands.call(["scontrol", "show", "partition", "--all", "--oneliner"])
    partitions = [parse_partition(line, mode) for line in shown.splitlines() if "PartitionName=" in line]
    nodes = commands.call(["scontrol", "show", "node", "--all", "--oneliner"])
    return Cluster(
        settings=settings,
        partitions={partition.name: partition for partition in partitions},
        nodes=tuple(parse_node(line) for line in nodes.splitlines() if "NodeName=" in line),
    )


def parse_partition(line: str, cluster_preempt_mode: str) -> Partition:
    """One line of ``scontrol show partition --oneliner``."""
    shown = pairs(line)
    mode = shown.get("PreemptMode", cluster_preempt_mode)
    return Partition(
        name=shown["PartitionName"],
        is_default=shown.get("Default") == "YES",
        is_up=shown.get("State") == "UP",
        max_nodes=None if (limit := shown.get("MaxNodes", "")) in UNLIMITED else int(limit),
        max_seconds=seconds(shown.get("MaxTime", "")),
        is_preemptible=not mode.startswith("OFF") and not cluster_preempt_mode.startswith("OFF"),
        grace_seconds=int(shown.get("GraceTime", "0")),
    )


def parse_node(line: str) -> Node:
    """One line of ``scontrol show node --oneliner``."""
    shown = pairs(line)
    return Node(
        name=shown["NodeName"],
        address=shown.get("NodeAddr", shown["NodeName"]),
        state=parse_node_state(shown.get("State", "UNKNOWN")),
        partitions=_list(shown.get("Partitions", "")),
        cpus=int(shown.get("CPUEfctv") or shown.get("CPUTot", "1")),
        memory_megabytes=int(shown.get("RealMemory", "0")),
        gpus=parse_gpus(_list(shown.get("Gres", ""))),
        features=_list(shown.get("AvailableFeatures", "")),
    )


def parse_gpus(gres: Iterable[str]) -> dict[str, int]:
    """Number of GPUs by kind in GRES such as ``gpu:h100:8(S:0-1)``."""
    gpus: dict[str, int] = {}
    for entry in gres:
        name, *rest = entry.partition("(")[0].split(":")
        if name == "gpu" and rest:
            *kinds, count = rest if rest[-1].isdigit() else [*rest, "1"]
            kind = ":".join(kinds)
            gpus[kind] = gpus.get(kind, 0) + int(count)
    return gpus


def pairs(line: str) -> dict[str, str]:
    """``Key=value`` pairs of one line of scontrol; a value may contain blanks."""
    return {name: value for name, value in PAIR.findall(line) if value != "(null)"}


def megabytes(text: str) -> int | None:
    """Memory in sbatch notation (``500G``, ``4000``) in MiB; ``None`` for anything else."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    factors = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}
    return int(int(found[1]) * factors[found[2]]) if found else None


def _setting(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()


def _list(text: str) -> tuple[str, ...]:
    """Split at commas outside of parentheses."""
    return tuple(part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip())
