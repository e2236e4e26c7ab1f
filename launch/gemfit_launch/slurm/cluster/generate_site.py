"""Generate a site file for a cluster: ``Cluster -> text``. Pure."""

from __future__ import annotations

import json
from collections import Counter

from gemfit.config.yaml_source import parse
from gemfit.errors import UserError, did_you_mean
from gemfit_launch.slurm.cluster.cluster import Cluster, Node, Partition
from gemfit_launch.slurm.cluster.scontrol_text import is_mig


def first_site(cluster: Cluster, partition: str | None) -> str:
    """YAML with comments for one partition: the default one, or the one with the most GPUs."""
    chosen = cluster.partitions[_choose(cluster, partition)]
    nodes = cluster.nodes_of(chosen.name)
    if not nodes:
        raise UserError(f"partition {chosen.name} has no nodes; name another with --partition")
    shape = _usual(nodes)
    return "".join(
        f"{line}\n"
        for line in [
            f"# Cluster {cluster.name}, partition {chosen.name}: {len(nodes)} nodes. Read and change it.",
            *_preemption(cluster, chosen),
            f"partition: {_text(chosen.name)}",
            "# account: my-project       # where the cluster asks for one",
            *_gpus(shape),
            f"cpus_per_node: {shape.cpus}",
            *_memory(shape),
            *_time(chosen),
            *_pack_partition(cluster, chosen),
            "# setup:                    # lines that run on each node first",
            "#   - module load cuda",
            *_lead(chosen),
        ]
    )


def _choose(cluster: Cluster, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in cluster.partitions:
            hint = did_you_mean(wanted, cluster.partitions) or f"; there are: {', '.join(cluster.partitions)}"
            raise UserError(f"--partition {wanted}: cluster {cluster.name} has no such partition{hint}")
        return wanted
    gpus = {name: sum(node.num_gpus for node in cluster.nodes_of(name)) for name in cluster.partitions}
    if not gpus:
        raise UserError(f"cluster {cluster.name} shows no partition to you; ask its administrators")
    default = cluster.default_partition
    if default is not None and (gpus[default] or not any(gpus.values())):
        return default
    return max(gpus, key=lambda name: gpus[name])


def _usual(nodes: list[Node]) -> Node:
    """A node of the most common shape; among equally common ones, the one with more GPUs."""
    shapes = Counter(_shape(node) for node in nodes)
    best = max(shapes, key=lambda shape: (shapes[shape], shape[0]))
    return next(node for node in nodes if _shape(node) == best)


def _shape(node: Node) -> tuple[int, int, int]:
    return node.num_gpus, node.cpus, node.memory_megabytes


def _gpus(node: Node) -> list[str]:
    """Whole GPUs before MIG slices, then the kind that the node has most of."""
    if not node.gpus:
        return ["gpus_per_node: 0            # trains on CPUs", "ranks_per_node: 1"]
    kind, count = max(node.gpus.items(), key=lambda item: (not is_mig(item[0]), item[1]))
    slices = [f"{number} {name}" for name, number in node.gpus.items() if is_mig(name)]
    lines = [f"# MIG slices are not used: {', '.join(slices)}"] if slices else []
    if is_mig(kind):
        count, lines = (
            1,
            [f"# MIG slices ({', '.join(slices)}): a rank sees one, and NCCL joins no two of one GPU."],
        )
    return [*lines, f"gpus_per_node: {count}", *([f"gpu_kind: {_text(kind)}"] if kind else [])]


def _memory(node: Node) -> list[str]:
    """Slurm gives 1 MiB for a node whose memory the administrators have not configured."""
    if node.memory_megabytes <= 1:
        return ["# memory: 0                # all of a node; this cluster does not say how much that is"]
    return [f"memory: {node.memory_megabytes}M"]


def _text(name: str) -> str:
    """``name`` in YAML, in quotes where it would be read as something else, such as `0123` or `1e3`."""
    try:
        is_plain = parse(f"name: {name}", "site").data["name"] == name
    except UserError:
        is_plain = False
    return name if is_plain else json.dumps(name)


def _time(partition: Partition) -> list[str]:
    if partition.max_seconds is not None:
        return [f"time: {_clock(partition.max_seconds)}          # the longest here; the run may be longer"]
    if partition.default_seconds is not None:
        default = _clock(partition.default_seconds)
        return [f"time: 1-00:00:00            # without it a job gets {default} (DefaultTime)"]
    return ["# time: 1-00:00:00          # no limit here; with one the job saves and requeues itself"]


def _clock(limit: int) -> str:
    days, rest = divmod(limit, 86400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def _lead(partition: Partition) -> list[str]:
    lead = min(300, partition.max_seconds // 3) if partition.max_seconds is not None else 300
    return [f"signal_lead_seconds: {lead:<3}    # longer than one step and one checkpoint together"]


def _pack_partition(cluster: Cluster, chosen: Partition) -> list[str]:
    """A partition without GPUs, if there is one."""
    for partition in cluster.partitions.values():
        nodes = cluster.nodes_of(partition.name)
        if partition != chosen and nodes and partition.is_up and not any(node.gpus for node in nodes):
            return [f"pack_partition: {_text(partition.name)}"]
    return []


def _preemption(cluster: Cluster, partition: Partition) -> list[str]:
    if partition.preemption == "off":
        return []
    if cluster.preempts_by_qos:
        return ["# Its jobs may be preempted; the QOS decides with what notice, and what follows."]
    window = partition.grace_seconds + cluster.kill_wait_seconds
    match partition.preemption:
        case "suspend":
            return ["# Its jobs may be suspended without notice; they continue later."]
        case "cancel":
            return [
                f"# Its jobs may be preempted, with {window} seconds to save; they are requeued only if",
                "# a step and a save take less (PreemptMode=CANCEL): else `gemfit resume` brings them back.",
            ]
        case _:
            return [f"# Its jobs may be preempted, with {window} seconds to save; they are requeued."]
