"""Parallelism search: every configuration of a recipe on a kind of GPU, with its estimate. Pure.

A configuration is a whole recipe: strategy, degree of sequence parallelism, number of GPUs, per-device batch
size, activation checkpointing, attention. What is trained never changes: the global batch stays, so more GPUs
than rows have to share rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gemfit.schemas.batch import make_batch
from gemfit.schemas.head_division import heads_problem
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy, strategy_from_name
from gemfit_launch.argv import to_argv
from gemfit_launch.predict.attention_masks import is_too_large
from gemfit_launch.predict.configuration import Configuration, make_configuration
from gemfit_launch.predict.gpu_specs import GPUS_PER_NODE, GpuSpec
from gemfit_launch.predict.memory import Memory, predict_memory
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.performance import Performance, predict_performance

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DEGREES = (1, 2, 4, 8, 16, 32)
"""Of sequence parallelism, as far as heads, rows and ranks divide."""
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
    def degree(self) -> int:
        """Ranks that share each row."""
        return self.config.degree

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
        argv += _strategy_options(self.recipe.strategy, asked.strategy)
        if model.attention != asked.model.attention and asked.model.attention != "auto":
            argv += ["--set", f"model.attention={model.attention}"]
        if asked.model.attention == "auto" and model.attention not in ("auto", "sdpa"):
            argv += ["--set", f"model.attention={model.attention}"]
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
    attentions: Sequence[str] | None = None,
) -> list[Estimate]:
    """Every configuration on these numbers of GPUs, fastest first, those that do not fit last.

    ``attentions`` are tried one by one; the recipe's by default.
    """
    tried = attentions or (recipe.model.attention,)
    made = [one for gpus in counts for name in tried for one in _on(_with(recipe, name), shape, gpu, gpus)]
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


def _with(recipe: Recipe, attention: str) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"attention": attention})})


def largest_world(recipe: Recipe, shape: ModelShape) -> int:
    """The most GPUs that have work: those that share a row, for each row of the global batch."""
    return recipe.batch.global_batch_size * max(possible_degrees(recipe, shape))


def possible_degrees(recipe: Recipe, shape: ModelShape) -> list[int]:
    """Degrees of sequence parallelism that heads, rows and the model's settings allow."""
    if changes_to_share_rows(recipe.model):
        return [1]
    return [
        degree
        for degree in DEGREES
        if heads_problem(degree, shape.num_heads) is None and recipe.data.seq_len % degree == 0
    ]


def changes_to_share_rows(model: ModelRecipe) -> list[str]:
    """Settings that sequence parallelism needs otherwise than ``model`` has them; none if it can be used."""
    changes = ["model.compile=false"] if model.compile else []
    return changes + (["model.lora.dropout=0"] if model.lora is not None and model.lora.dropout else [])


def _on(recipe: Recipe, shape: ModelShape, gpu: GpuSpec, gpus: int) -> Iterator[Estimate]:
    rows, seq_len = recipe.batch.global_batch_size, recipe.data.seq_len
    for degree in possible_degrees(recipe, shape):
        if gpus % degree or gpus // degree > rows:
            continue
        for strategy in _strategies(gpus, degree):
            for checkpointing in (True, False):
                # Rows that are shared are taken one by one: whole ones would be fewer exchanges.
                for batch_size in PER_DEVICE if degree == 1 else (1,):
                    is_possible = not is_too_large(recipe.model.attention, batch_size, seq_len)
                    if is_possible and batch_size * gpus <= rows * degree:
                        changed = _changed(recipe, strategy, checkpointing, batch_size)
                        yield Estimate(recipe=changed, config=_configuration(changed, shape, gpus), gpu=gpu)


def _strategies(gpus: int, degree: int) -> Iterator[Strategy]:
    """Strategies on as many GPUs, of which ``degree`` share each row."""
    nodes = gpus // _ranks_per_node(gpus)
    for strategy in (Single() if gpus == 1 else Ddp(), *STRATEGIES):
        copies = strategy.label.startswith("hsdp")
        if not (copies and nodes == 1) and not strategy.problems(gpus, nodes):
            yield strategy.model_copy(update={"sequence_parallel": degree})


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
        sequence_parallel=recipe.strategy.sequence_parallel,
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


def _strategy_options(strategy: Strategy, asked: Strategy) -> list[str]:
    """Options that turn ``asked`` into ``strategy``: its name, then each key that is not that of the name."""
    if strategy == asked:
        return []
    name, offload = _short_name(strategy), strategy.label.endswith("+offload")
    named: Strategy = type(strategy).model_validate(strategy_from_name(name, offload=offload))
    plain = named.model_copy(update={"sequence_parallel": asked.sequence_parallel})
    before, after = plain.model_dump(mode="json"), strategy.model_dump(mode="json")
    changed = [f"strategy.{key}={str(value).lower()}" for key, value in after.items() if value != before[key]]
    return to_argv({"strategy": name, "offload": offload, "set": changed})


def _short_name(strategy: Strategy) -> str:
    """As ``--strategy`` takes it."""
    return "fsdp2" if isinstance(strategy, Fsdp) else strategy.label.partition("+")[0]
