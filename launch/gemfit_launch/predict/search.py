"""Parallelism search: every configuration of a recipe on a kind of GPU, with its estimate. Pure.

A configuration is a whole recipe: strategy, number of GPUs, per-device batch size, activation checkpointing.
What is trained never changes: the global batch stays, so more GPUs than rows are not a configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gemfit.schemas.batch import make_batch
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy
from gemfit_launch.argv import to_argv
from gemfit_launch.predict.gpu_specs import GPUS_PER_NODE, GpuSpec
from gemfit_launch.predict.memory import Memory, make_configuration, predict_memory
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.model_state_memory import Configuration
from gemfit_launch.predict.performance import Performance, predict_performance

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
PER_DEVICE = (1, 2, 4, 8, 16)
STRATEGIES: tuple[Strategy, ...] = (
    Fsdp(),
    Fsdp(reshard_after_forward=False),
    Fsdp(offload=True),
    Fsdp(replicate="node"),
    Fsdp(replicate="node", reshard_after_forward=False),
    *(DeepSpeed(stage=stage) for stage in (1, 2, 3)),
    *(DeepSpeed(stage=stage, offload_optimizer=True, offload_params=stage == 3) for stage in (1, 2, 3)),
)
SHARD_GRAD_OP = "-shard-grad-op"
"""Suffix of FSDP2 that keeps parameters gathered after the forward pass, as FSDP1 named it."""


@dataclass(frozen=True)
class Estimate:
    """One configuration of ``recipe`` on one kind of GPU, and what it is predicted to need."""

    recipe: Recipe
    config: Configuration
    gpu: GpuSpec
    host_bytes: int | None = None
    """Host memory per node; no bound where it is not given."""

    @cached_property
    def memory(self) -> Memory:
        return predict_memory(self.config, self.recipe.checkpoint)

    @cached_property
    def performance(self) -> Performance:
        tokens = self.recipe.batch.global_batch_size * self.config.seq_len
        return predict_performance(self.config, self.gpu, tokens_per_step=tokens)

    @property
    def fits(self) -> bool:
        host = self.host_bytes is None or self.memory.host_node_bytes <= self.host_bytes
        return host and self.memory.gpu_bytes <= self.gpu.usable_bytes

    @property
    def gpus(self) -> int:
        return self.config.world_size

    @property
    def offloads(self) -> bool:
        return self.recipe.strategy.label.endswith("+offload")

    @property
    def key(self) -> tuple[str, int]:
        """Equal for estimates that differ only in batch size and activation checkpointing."""
        return (self.label, self.gpus)

    @property
    def strategy_name(self) -> str:
        """As ``--strategy`` takes it."""
        return _short_name(self.recipe.strategy)

    @property
    def label(self) -> str:
        """The strategy's, with a suffix where FSDP2 does not reshard after the forward pass."""
        strategy = self.recipe.strategy
        gathered = isinstance(strategy, Fsdp) and not strategy.reshard_after_forward
        return strategy.label + SHARD_GRAD_OP * gathered

    def options(self, asked: Recipe) -> list[str]:
        """Command-line options that turn the recipe ``asked`` into this configuration."""
        model, batch = self.recipe.model, self.recipe.batch
        argv = to_argv({"gpus": self.gpus})
        if self.recipe.strategy != asked.strategy:
            argv += _strategy_options(self.recipe.strategy)
        if batch.max_per_device_batch_size != asked.batch.max_per_device_batch_size:
            argv += ["--set", f"batch.max_per_device_batch_size={batch.max_per_device_batch_size}"]
        if model.activation_checkpointing != asked.model.activation_checkpointing:
            argv += ["--set", f"model.activation_checkpointing={str(model.activation_checkpointing).lower()}"]
        return argv


def estimate_all(
    recipe: Recipe,
    shape: ModelShape,
    gpu: GpuSpec,
    counts: Sequence[int] = GPU_COUNTS,
    *,
    host_bytes: int | None = None,
) -> list[Estimate]:
    """Every configuration on these numbers of GPUs, fastest first, those that do not fit last."""
    made = [one for gpus in counts for one in _on(recipe, shape, gpu, gpus)]
    made = [replace(one, host_bytes=host_bytes) for one in made]
    return sorted(made, key=lambda one: (not one.fits, -one.performance.tokens_per_second.middle))


def best_of_each(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The first per strategy and number of GPUs, in the order given."""
    first: dict[tuple[str, int], Estimate] = {}
    for estimate in estimates:
        first.setdefault(estimate.key, estimate)
    return list(first.values())


def smallest_changes(recipe: Recipe, shape: ModelShape, gpu: GpuSpec, gpus: int) -> list[Estimate]:
    """The configuration that fits on as many GPUs with the fewest changes; without offload if possible.

    Where all need offload, the next larger number of GPUs that needs none comes second, or alone. Among
    equals the fastest; empty where nothing fits at all.
    """
    here = _closest(recipe, [one for one in _on(recipe, shape, gpu, gpus) if one.fits])
    if here is not None and not here.offloads:
        return [here]
    found = [here] if here is not None else []
    for count in (count for count in GPU_COUNTS if count > gpus):
        direct = [one for one in _on(recipe, shape, gpu, count) if one.fits and not one.offloads]
        if (there := _closest(recipe, direct)) is not None:
            return [*found, there]
    return found


def smaller(model: ModelRecipe) -> str:
    """A change that needs less memory but changes the training, so it is left to the user."""
    if model.lora is None:
        return "LoRA"
    return "4 bits (model.quantization=nf4)" if model.quantization is None else "a smaller model"


def _closest(recipe: Recipe, estimates: Sequence[Estimate]) -> Estimate | None:
    def distance(one: Estimate) -> tuple[bool, int, float]:
        return one.offloads, len(one.options(recipe)), one.performance.step_seconds.middle

    return min(estimates, key=distance, default=None)


def _on(recipe: Recipe, shape: ModelShape, gpu: GpuSpec, gpus: int) -> Iterator[Estimate]:
    if gpus > recipe.batch.global_batch_size:
        return
    nodes = gpus // _ranks_per_node(gpus)
    on_nodes = (strategy for strategy in STRATEGIES if not strategy.problems(gpus, nodes))
    if nodes == 1:  # there are no copies to make
        on_nodes = (strategy for strategy in on_nodes if not strategy.label.startswith("hsdp"))
    for strategy in (Single() if gpus == 1 else Ddp(), *on_nodes):
        for checkpointing in (True, False):
            for batch_size in PER_DEVICE:
                if batch_size * gpus <= recipe.batch.global_batch_size:
                    changed = _changed(recipe, strategy, checkpointing, batch_size)
                    yield Estimate(recipe=changed, config=_configuration(changed, shape, gpus), gpu=gpu)


def _changed(recipe: Recipe, strategy: Strategy, checkpointing: bool, batch_size: int) -> Recipe:
    model = recipe.model.model_copy(update={"activation_checkpointing": checkpointing})
    batch = recipe.batch.model_copy(update={"max_per_device_batch_size": batch_size})
    return recipe.model_copy(update={"model": model, "batch": batch, "strategy": strategy})


def _configuration(recipe: Recipe, shape: ModelShape, gpus: int) -> Configuration:
    batch = make_batch(
        global_batch_size=recipe.batch.global_batch_size,
        max_per_device_batch_size=recipe.batch.max_per_device_batch_size,
        world_size=gpus,
        seq_len=recipe.data.seq_len,
    )
    return make_configuration(
        recipe,
        shape,
        world_size=gpus,
        ranks_per_node=_ranks_per_node(gpus),
        per_device_batch_size=batch.per_device_batch_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
    )


def _ranks_per_node(gpus: int) -> int:
    return math.gcd(gpus, GPUS_PER_NODE) if gpus > GPUS_PER_NODE else gpus


def _strategy_options(strategy: Strategy) -> list[str]:
    if not isinstance(strategy, Fsdp) or strategy == Fsdp(offload=strategy.offload):
        return to_argv({"strategy": _short_name(strategy), "offload": strategy.label.endswith("+offload")})
    default = Fsdp().model_dump()
    changed = {key: value for key, value in strategy.model_dump(mode="json").items() if value != default[key]}
    settings = [f"strategy.{key}={str(value).lower()}" for key, value in changed.items()]
    return to_argv({"set": ["strategy=fsdp2", *settings]})


def _short_name(strategy: Strategy) -> str:
    """As ``--strategy`` takes it."""
    return "fsdp2" if isinstance(strategy, Fsdp) else strategy.label.partition("+")[0]
