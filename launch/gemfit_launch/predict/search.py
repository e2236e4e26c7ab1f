"""Which ways to train fit a card, fastest first; for the others the part that is too large. Pure.

A candidate is a whole recipe: strategy, GPUs, rows a device takes, checkpointing. What is trained is never
changed: the global batch stays, so more GPUs than rows are no candidate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gemfit.schemas.batch import make_batch
from gemfit.schemas.recipe import ModelRecipe, Recipe
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy
from gemfit_launch.planning.topology import GPUS_PER_NODE
from gemfit_launch.predict.architecture import Architecture
from gemfit_launch.predict.gpu_specs import Card
from gemfit_launch.predict.memory import Memory, make_setting, predict_memory
from gemfit_launch.predict.model_state_memory import Setting
from gemfit_launch.predict.performance import Performance, predict_performance

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
PER_DEVICE = (1, 2, 4, 8, 16)
STRATEGIES: tuple[Strategy, ...] = (
    Fsdp(),
    Fsdp(reshard_after_forward=False),
    Fsdp(offload=True),
    *(DeepSpeed(stage=stage) for stage in (1, 2, 3)),
    *(DeepSpeed(stage=stage, offload_optimizer=True, offload_params=stage == 3) for stage in (1, 2, 3)),
)


@dataclass(frozen=True)
class Candidate:
    """One way to train ``recipe`` on one kind of card."""

    recipe: Recipe
    setting: Setting
    card: Card
    host_bytes: int | None = None
    """Memory of a node that may be filled; no bound where it is not known."""

    @cached_property
    def memory(self) -> Memory:
        return predict_memory(self.setting, self.recipe.checkpoint)

    @cached_property
    def performance(self) -> Performance:
        tokens = self.recipe.batch.global_batch_size * self.setting.seq_len
        return predict_performance(self.setting, self.card, tokens_per_step=tokens)

    @property
    def fits(self) -> bool:
        host = self.host_bytes is None or self.memory.host_node_bytes <= self.host_bytes
        return host and self.memory.gpu_bytes <= self.card.usable_bytes

    @property
    def gpus(self) -> int:
        return self.setting.world_size

    @property
    def offloads(self) -> bool:
        return self.recipe.strategy.label.endswith("+offload")

    @property
    def key(self) -> tuple[str, int]:
        """Candidates with equal keys differ only in rows a device and in checkpointing."""
        return (self.label, self.gpus)

    @property
    def label(self) -> str:
        """Of the strategy; parameters that stay gathered are said."""
        strategy = self.recipe.strategy
        kept = isinstance(strategy, Fsdp) and not strategy.reshard_after_forward
        return strategy.label + ("+kept" if kept else "")

    def options(self, asked: Recipe) -> list[str]:
        """What to say on the command line to get from ``asked`` to this."""
        model, batch = self.recipe.model, self.recipe.batch
        argv = ["--gpus", str(self.gpus)]
        if self.recipe.strategy != asked.strategy:
            argv += _strategy_options(self.recipe.strategy)
        if batch.max_per_device_batch_size != asked.batch.max_per_device_batch_size:
            argv += ["--set", f"batch.max_per_device_batch_size={batch.max_per_device_batch_size}"]
        if model.activation_checkpointing != asked.model.activation_checkpointing:
            argv += ["--set", f"model.activation_checkpointing={str(model.activation_checkpointing).lower()}"]
        return argv


def candidates(
    recipe: Recipe,
    architecture: Architecture,
    card: Card,
    counts: Sequence[int] = GPU_COUNTS,
    *,
    host_bytes: int | None = None,
) -> list[Candidate]:
    """Every way to train ``recipe`` on these numbers of GPUs, fastest first, those that do not fit last."""
    made = [way for gpus in counts for way in _on(recipe, architecture, card, gpus)]
    made = [replace(way, host_bytes=host_bytes) for way in made]
    return sorted(made, key=lambda way: (not way.fits, -way.performance.tokens_per_second.middle))


def best_of_each(ways: Sequence[Candidate]) -> list[Candidate]:
    """The first of each strategy and number of GPUs, in the order given."""
    first: dict[tuple[str, int], Candidate] = {}
    for way in ways:
        first.setdefault(way.key, way)
    return list(first.values())


def smallest_changes(recipe: Recipe, architecture: Architecture, card: Card, gpus: int) -> list[Candidate]:
    """The way that fits on as many GPUs with the fewest changes; without offload where there is one.

    Where there is none without offload, the next larger number of GPUs that needs none comes second, or
    alone. Among equals the fastest; empty where nothing fits at all.
    """
    here = _closest(recipe, [way for way in _on(recipe, architecture, card, gpus) if way.fits])
    if here is not None and not here.offloads:
        return [here]
    found = [here] if here is not None else []
    for count in (count for count in GPU_COUNTS if count > gpus):
        ways = [way for way in _on(recipe, architecture, card, count) if way.fits and not way.offloads]
        if (there := _closest(recipe, ways)) is not None:
            return [*found, there]
    return found


def smaller(model: ModelRecipe) -> str:
    """What takes less memory and is another training: it is for a person to choose."""
    if model.lora is None:
        return "LoRA"
    return "4 bits (model.quantization=nf4)" if model.quantization is None else "a smaller model"


def _closest(recipe: Recipe, ways: Sequence[Candidate]) -> Candidate | None:
    def distance(way: Candidate) -> tuple[bool, int, float]:
        return way.offloads, len(way.options(recipe)), way.performance.step_seconds.middle

    return min(ways, key=distance, default=None)


def _on(recipe: Recipe, architecture: Architecture, card: Card, gpus: int) -> Iterator[Candidate]:
    if gpus > recipe.batch.global_batch_size:
        return
    for strategy in (Single() if gpus == 1 else Ddp(), *STRATEGIES):
        for checkpointing in (True, False):
            for per_device_batch_size in PER_DEVICE:
                if per_device_batch_size * gpus <= recipe.batch.global_batch_size:
                    yield _candidate(
                        recipe, architecture, card, gpus, strategy, checkpointing, per_device_batch_size
                    )


def _candidate(
    recipe: Recipe,
    architecture: Architecture,
    card: Card,
    gpus: int,
    strategy: Strategy,
    checkpointing: bool,
    per_device_batch_size: int,
) -> Candidate:
    model = recipe.model.model_copy(update={"activation_checkpointing": checkpointing})
    batch = recipe.batch.model_copy(update={"max_per_device_batch_size": per_device_batch_size})
    changed = recipe.model_copy(update={"model": model, "batch": batch, "strategy": strategy})
    shape = make_batch(
        global_batch_size=batch.global_batch_size,
        max_per_device_batch_size=per_device_batch_size,
        world_size=gpus,
        seq_len=recipe.data.seq_len,
    )
    setting = make_setting(
        changed,
        architecture,
        world_size=gpus,
        ranks_per_node=math.gcd(gpus, GPUS_PER_NODE) if gpus > GPUS_PER_NODE else gpus,
        per_device_batch_size=shape.per_device_batch_size,
        gradient_accumulation_steps=shape.gradient_accumulation_steps,
    )
    return Candidate(recipe=changed, setting=setting, card=card)


def _strategy_options(strategy: Strategy) -> list[str]:
    if isinstance(strategy, Fsdp) and not strategy.reshard_after_forward:
        return ["--set", "strategy=fsdp2", "--set", "strategy.reshard_after_forward=false"]
    name, plus, _ = strategy.label.partition("+")
    return ["--strategy", name, *(["--offload"] if plus else [])]
