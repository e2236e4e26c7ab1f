"""The plan: one recipe on one set of ranks, with every value resolved.

Equal plans are the same run; everything after planning only executes a plan.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import JsonValue

from gemfit.schemas.base import Contract
from gemfit.schemas.batch import Batch
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import Engine, Fsdp
from gemfit.schemas.training_identity import flatten


class Topology(Contract):
    """Number and device of the training processes."""

    nodes: int
    ranks_per_node: int
    device: Literal["cpu", "cuda"]

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


class Steps(Contract):
    """Length of the run in optimizer steps."""

    rows: int
    """Packed training rows in one epoch."""
    rows_are: Literal["packed", "estimated"]
    per_epoch: float
    total: int
    warmup_share: float
    """Warm-up steps as a share of all steps; above 1 the peak learning rate is never reached."""


class PackReference(Contract):
    """The packed data of a run."""

    fingerprint: str
    folder: str


NON_IDENTITY_FIELDS: dict[str, Any] = {
    "description": True,
    "model": {"attention", "activation_checkpointing", "kernels", "compile"},
    "data": {"source", "hf_revision", "validation"},
    "batch": {"max_per_device_batch_size"},
    "strategy": True,
    "checkpoint": True,
    "evaluation": True,
    "tracking": True,
    "hub": True,
}
"""Recipe fields that are not part of the training identity: they decide how a model is trained, not what."""


class Plan(Contract):
    """Everything that a run will do."""

    recipe: Recipe
    """Resolved: `attention` is not `auto`, `data.source` is set."""
    site: Site | None
    topology: Topology
    """That of one attempt, where `node_counts` names others."""
    batch: Batch
    steps: Steps
    pack: PackReference
    accelerate: dict[str, Any]
    """The configuration that `accelerate launch` reads."""
    deepspeed: dict[str, Any] | None
    """The configuration that DeepSpeed reads; `None` under other strategies."""
    command: tuple[str, ...]
    """argv, with `{run_dir}` where the run folder goes."""
    env: dict[str, str]
    """Added to the environment of the command."""
    versions: dict[str, str]
    warnings: tuple[str, ...]
    """Valid settings that are probably not intended."""
    data_notes: tuple[str, ...] = ()
    """Files that the folders of the data hold, those that are passed over, and those of misleading names."""
    node_counts: tuple[int, ...] = ()
    """Numbers of nodes on which a job may train, ascending: Slurm gives it as many as it has, from the first
    to the last, at each start. Empty: always `topology.nodes`."""
    attention_because: str = ""
    """Why `recipe.model.attention` was selected."""
    attention_if_proven: Literal["varlen"] | None = None
    """A faster attention that the ranks take instead if its kernel passes a probe on all of them."""

    @property
    def attention(self) -> str:
        """The attention in words, as `varlen if proven, else sdpa`."""
        planned, faster = self.recipe.model.attention, self.attention_if_proven
        return planned if faster is None else f"{faster} if proven, else {planned}"

    @property
    def engine(self) -> Engine:
        """What the self-test expects in the running process."""
        strategy = self.recipe.strategy
        replicas = strategy.replicas(self.topology.nodes) if isinstance(strategy, Fsdp) else 1
        return strategy.engine.model_copy(update={"replicas": replicas})

    def training_identity(self) -> dict[str, JsonValue]:
        """Training identity by dotted key; plans with equal identities train the same model.

        The number of steps follows from it. The data counts by the pack's fingerprint, not by its path.
        """
        flat = flatten(self.recipe.model_dump(mode="json", exclude=NON_IDENTITY_FIELDS))
        return flat | {"pack.fingerprint": self.pack.fingerprint}
