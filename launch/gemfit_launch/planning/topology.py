"""Number of ranks, nodes and device, from options, from a site, and from the GPUs of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemfit.core.gpu_count import unused_gpu_signs
from gemfit.errors import UserError
from gemfit.schemas.plan import Topology
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import Single, Strategy
from gemfit_launch.argv import to_argv
from gemfit_launch.predict.gpu_specs import GPUS_PER_NODE

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The options `--nproc`, `--gpus`, `--nodes` and `--device`."""

    nproc: int | None = None
    """Ranks on this machine."""
    gpus: int | None = None
    """GPUs in total, one rank each."""
    nodes: int | None = None
    device: Device = "auto"

    def arguments(self) -> list[str]:
        """The same options as command line arguments."""
        device = self.device if self.device != "auto" else None
        return to_argv({"nproc": self.nproc, "gpus": self.gpus, "nodes": self.nodes, "device": device})


def choose_topology(ranks: Ranks, strategy: Strategy, *, visible_gpus: int) -> Topology:
    """Ranks and machines for these options; contradictions among them are a ``UserError``."""
    _check_contradictions(ranks)
    device: Literal["cpu", "cuda"]
    if ranks.device == "auto":
        device = "cuda" if ranks.gpus is not None or visible_gpus else "cpu"
    else:
        device = ranks.device
    alone = isinstance(strategy, Single) or device == "cpu"
    total = ranks.gpus or ranks.nproc or (1 if alone else max(visible_gpus, 1))
    nodes = ranks.nodes or _usual_nodes(ranks.gpus or 1)
    if total % nodes:
        raise UserError(f"--nodes {nodes}: {total} GPUs do not divide over {nodes} nodes")
    return Topology(nodes=nodes, ranks_per_node=total // nodes, device=device)


def ranks_at(site: Site, nodes: int) -> Topology:
    """Ranks of ``nodes`` nodes of ``site``."""
    return Topology(nodes=nodes, ranks_per_node=site.ranks, device="cuda" if site.gpus_per_node else "cpu")


def check_gpus_present(topology: Topology, *, visible_gpus: int) -> None:
    """``UserError`` where a run would need more GPUs, or machines, than there are here."""
    if topology.nodes > 1:
        raise UserError(
            f"{topology.world_size} ranks are planned for {topology.nodes} machines, and this is one; "
            "give the number of ranks for it with --nproc"
        )
    if topology.device == "cuda" and topology.ranks_per_node > visible_gpus:
        raise UserError(
            f"{topology.ranks_per_node} GPUs are requested and {visible_gpus} are visible; "
            "give fewer, or train on the CPU with --device cpu --nproc N"
        )


def check_cpu_intended(ranks: Ranks, topology: Topology) -> None:
    """``UserError`` where a run would use CPUs unasked on a machine with signs of a GPU."""
    if ranks.device != "auto" or topology.device == "cuda":
        return
    if signs := list(unused_gpu_signs()):
        raise UserError(
            f"no GPU can be used, although this machine seems to have one: {'; '.join(signs)}. "
            "`gemfit doctor` checks the driver; to train on the CPU, give --device cpu"
        )


def _usual_nodes(gpus: int) -> int:
    whole = gpus > GPUS_PER_NODE and gpus % GPUS_PER_NODE == 0
    return gpus // GPUS_PER_NODE if whole else 1


def _check_contradictions(ranks: Ranks) -> None:
    if ranks.nproc is not None and ranks.gpus is not None:
        raise UserError("--nproc counts ranks on this machine, --gpus counts GPUs in all; give one of them")
    if ranks.gpus is not None and ranks.device == "cpu":
        raise UserError(f"--gpus {ranks.gpus} and --device cpu contradict each other; use --nproc")
    if ranks.nodes is not None and ranks.gpus is None:
        raise UserError(f"--nodes {ranks.nodes} needs --gpus, the number of GPUs in all")
