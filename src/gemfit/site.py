"""Where to train: what one cluster looks like. Nothing about the model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemfit.contract import Contract

PositiveInt = Annotated[int, Field(ge=1)]


class Site(Contract):
    """One cluster, as its users describe it."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus_per_node: PositiveInt = 1
    gpu_kind: str | None = None
    """GRES type, such as `h100`."""
    cpus_per_node: PositiveInt | None = None
    memory: str | None = None
    """Memory per node, as sbatch writes it (`500G`)."""
    time: str | None = None
    """Time limit, as sbatch writes it (`1-00:00:00`)."""
    setup: tuple[str, ...] = ()
    """Shell lines that run on the node before training (modules, environments)."""
    env: dict[str, str] = Field(default_factory=dict)
    signal_lead_seconds: PositiveInt = 300
    """How long before the time limit the job is told to save."""
    extra: dict[str, str] = Field(default_factory=dict)
    """Any sbatch option that the launcher does not own."""
