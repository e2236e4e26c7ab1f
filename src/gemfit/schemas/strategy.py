"""Strategies: how parameters, gradients and optimizer state are distributed over the ranks.

Four classes with the same members: ``label`` (for tables), ``problems`` (why it cannot work on these ranks),
``engine`` (what the self-test expects in the running process) and ``sequence_parallel``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gemfit.schemas.base import Contract, PositiveInt

STRATEGY_NAMES = ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")


class Engine(Contract):
    """Expected classes in the running process, which prove that the strategy is in use."""

    model_class: Literal["plain", "DistributedDataParallel", "FSDPModule", "DeepSpeedEngine"]
    """Class of the wrapped model; `plain` is the model itself."""
    parameter_class: Literal["Parameter", "DTensor"] = "Parameter"
    zero_stage: int | None = None
    replicas: int = 1
    """Copies of a sharded model: the first dimension of the device mesh of FSDP2, under HSDP."""


class ManyRanks(Contract):
    """What every strategy of several ranks has."""

    sequence_parallel: PositiveInt = 1
    """Neighbouring ranks that share each row, a slice of its tokens each; see docs/long-rows.md."""

    def problems(self, world_size: int, nodes: int) -> list[str]:
        return []


class Single(Contract):
    """One process."""

    kind: Literal["single"] = "single"
    sequence_parallel: Literal[1] = 1
    """A row is on one rank."""

    @property
    def label(self) -> str:
        return "single"

    def problems(self, world_size: int, nodes: int) -> list[str]:
        if world_size == 1:
            return []
        return [f"strategy single runs on one rank, not {world_size}; use ddp, fsdp2, zero1, zero2 or zero3"]

    @property
    def engine(self) -> Engine:
        return Engine(model_class="plain")


class Ddp(ManyRanks):
    """Replicated on every rank; gradients are averaged."""

    kind: Literal["ddp"] = "ddp"

    @property
    def label(self) -> str:
        return "ddp"

    @property
    def engine(self) -> Engine:
        return Engine(model_class="DistributedDataParallel")


class Fsdp(ManyRanks):
    """FSDP2 (``fully_shard``): parameters, gradients and optimizer state are sharded as DTensors."""

    kind: Literal["fsdp2"] = "fsdp2"
    reshard_after_forward: bool = True
    """Free the gathered parameters after the forward pass; `false` trades memory for fewer gathers."""
    offload: bool = False
    """Keep sharded parameters, gradients and optimizer state in host memory."""
    replicate: PositiveInt | Literal["node"] = 1
    """HSDP: copies of the model, each sharded over ranks / copies ranks, that average their gradients;
    `node` keeps a copy on each node."""

    @property
    def label(self) -> str:
        return ("fsdp2" if self.replicate == 1 else "hsdp") + ("+offload" if self.offload else "")

    def replicas(self, nodes: int) -> int:
        """Copies of the sharded model on ``nodes`` nodes."""
        return nodes if self.replicate == "node" else self.replicate

    def problems(self, world_size: int, nodes: int) -> list[str]:
        problems, copies = super().problems(world_size, nodes), self.replicas(nodes)
        if copies == 1 or (world_size % copies == 0 and world_size > copies):
            return problems
        return [
            *problems,
            f"strategy.replicate is {self.replicate}: {copies} copies of the model, each sharded over two "
            f"ranks or more, do not divide {world_size} ranks; write {_divisors(world_size)}"
            + (", or use ddp, which shards nothing" if world_size == copies else ""),
        ]

    @property
    def engine(self) -> Engine:
        return Engine(model_class="FSDPModule", parameter_class="DTensor")


class DeepSpeed(ManyRanks):
    """DeepSpeed ZeRO: stage 1 shards optimizer state, 2 also gradients, 3 also parameters."""

    kind: Literal["deepspeed"] = "deepspeed"
    stage: Literal[1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keep optimizer state in host memory."""
    offload_params: bool = False
    """Keep parameters in host memory; stage 3 only."""

    @property
    def label(self) -> str:
        return f"zero{self.stage}" + ("+offload" if self.offload_optimizer or self.offload_params else "")

    def problems(self, world_size: int, nodes: int) -> list[str]:
        problems = super().problems(world_size, nodes)
        if self.offload_params and self.stage != 3:
            problems.append(
                f"strategy.offload_params needs ZeRO stage 3, not {self.stage}; "
                "write `stage: 3` or use offload_optimizer"
            )
        return problems

    @property
    def engine(self) -> Engine:
        return Engine(model_class="DeepSpeedEngine", zero_stage=self.stage)


def _divisors(world_size: int) -> str:
    """Such as ``1, 2 or 4``: what `strategy.replicate` may be."""
    *most, last = [str(n) for n in range(1, max(world_size // 2, 1) + 1) if world_size % n == 0]
    return f"{', '.join(most)} or {last}" if most else last


def strategy_from_name(name: str, *, offload: bool = False) -> dict[str, Any]:
    """The fields that a short name such as ``zero3`` stands for.

    Raises ``ValueError`` for an unknown name and for an offload where there is nothing to offload.
    """
    if name not in STRATEGY_NAMES:
        raise ValueError(f"{name!r} is not a strategy; choose from {', '.join(STRATEGY_NAMES)}")
    if offload and name in ("single", "ddp"):
        raise ValueError(f"strategy {name} has nothing to offload; use fsdp2, zero1, zero2 or zero3")
    if name == "fsdp2":
        return {"kind": "fsdp2", "offload": offload}
    if name.startswith("zero"):
        stage = int(name[4:])
        return {
            "kind": "deepspeed",
            "stage": stage,
            "offload_optimizer": offload,
            "offload_params": offload and stage == 3,
        }
    return {"kind": name}


def _expand_name(value: object) -> object:
    return strategy_from_name(value) if isinstance(value, str) else value


Strategy = Annotated[
    Annotated[Single | Ddp | Fsdp | DeepSpeed, Field(discriminator="kind")],
    BeforeValidator(_expand_name),
]
