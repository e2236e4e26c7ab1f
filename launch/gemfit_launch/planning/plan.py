"""``(Recipe, Site, ranks) -> Plan``: all cross-checks and batch arithmetic, every value resolved. Pure.

The number of packed rows comes in as a value, so that a plan can be made with or without a pack.
"""

from __future__ import annotations

import math
from typing import Any

from gemfit import __version__
from gemfit.errors import UserError
from gemfit.schemas.batch import Batch, make_batch, nearest_without_idle
from gemfit.schemas.plan import PackReference, Plan, Steps, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single
from gemfit_launch.planning.accelerate import accelerate_config, command, environment
from gemfit_launch.planning.attention import (
    Attention,
    AttentionFacts,
    attention_problems,
    choose_attention,
    mask_problem,
)
from gemfit_launch.planning.deepspeed import deepspeed_config
from gemfit_launch.planning.sequence_parallel import sequence_parallel_problems, sequence_parallel_warnings
from gemfit_launch.planning.speed import speed_problems


def make_plan(
    recipe: Recipe,
    *,
    topology: Topology,
    pack: PackReference,
    rows: int,
    rows_are_packed: bool,
    attention: AttentionFacts | None = None,
    site: Site | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Resolve every open value of ``recipe`` for these ranks.

    ``rows`` is the number of training rows in an epoch; ``notes`` come first among the warnings. All
    problems are reported in one ``UserError``.
    """
    if problems := find_problems(recipe, topology):
        raise UserError("\n".join(problems))
    chosen = choose_attention(recipe, topology, attention or AttentionFacts())
    resolved, warnings = _resolve(recipe, topology, chosen)
    batch = _batch(recipe, topology)
    if (problem := mask_problem(resolved.model.attention, batch)) is not None:
        raise UserError(problem)
    steps = count_steps(resolved, rows, packed=rows_are_packed)
    return Plan(
        recipe=resolved,
        site=site,
        topology=topology,
        batch=batch,
        steps=steps,
        pack=pack,
        **_launch_fields(resolved, topology, batch),
        versions={"gemfit": __version__},
        warnings=(
            *notes,
            *warnings,
            *_idle_warning(batch),
            *sequence_parallel_warnings(batch, topology),
            *_step_warnings(resolved, steps),
        ),
        attention_because=chosen.because,
        attention_if_proven=chosen.if_proven,
    )


def with_own_launch(plan: Plan) -> Plan:
    """``plan`` with command, environment and configuration files made from its recipe and topology.

    A plan that was read from a run folder may hold any command; it is not executed.
    """
    return plan.model_copy(update=_launch_fields(plan.recipe, plan.topology, plan.batch))


def foreign_launch_fields(plan: Plan) -> list[str]:
    """Names of what ``with_own_launch`` would change: of another version of gemfit, or planted."""
    own = _launch_fields(plan.recipe, plan.topology, plan.batch)
    return [name for name, value in own.items() if getattr(plan, name) != value]


def _launch_fields(recipe: Recipe, topology: Topology, batch: Batch) -> dict[str, Any]:
    strategy = recipe.strategy
    return {
        "accelerate": accelerate_config(recipe, topology),
        "deepspeed": deepspeed_config(strategy, recipe, batch) if isinstance(strategy, DeepSpeed) else None,
        "command": command(),
        "env": environment(topology),
    }


def find_problems(recipe: Recipe, topology: Topology) -> list[str]:
    """Everything that keeps ``recipe`` from running on these ranks; empty if nothing does."""
    problems = recipe.strategy.problems(topology.world_size, topology.nodes)
    problems += [*attention_problems(recipe, topology), *speed_problems(recipe, topology)]
    problems += sequence_parallel_problems(recipe)
    try:
        _batch(recipe, topology)
    except UserError as error:
        problems.append(str(error))
    return problems


def count_steps(recipe: Recipe, rows: int, *, packed: bool) -> Steps:
    """Epochs follow each other without a gap, so only the very last step can be short of rows."""
    if rows < 1:
        raise UserError(
            "there is no training row; give more conversations or a smaller data.validation_share"
        )
    global_batch_size, length = recipe.batch.global_batch_size, recipe.length
    total = (
        length.max_steps
        if length.max_steps is not None
        else math.ceil((length.num_epochs or 0) * rows / global_batch_size)
    )
    return Steps(
        rows=rows,
        rows_are="packed" if packed else "estimated",
        per_epoch=rows / global_batch_size,
        total=total,
        warmup_share=recipe.optim.warmup_steps / total,
    )


def _resolve(recipe: Recipe, topology: Topology, attention: Attention) -> tuple[Recipe, list[str]]:
    """The resolved recipe, and warnings."""
    warnings = [attention.warning] if attention.warning else []
    strategy = recipe.strategy
    if isinstance(strategy, Ddp) and topology.world_size == 1:
        strategy = Single()
        warnings.append("strategy ddp on one rank is strategy single: there are no gradients to average")
    if isinstance(strategy, Fsdp) and strategy.replicate == "node" and topology.nodes == 1:
        warnings.append("strategy.replicate: node on one node is plain FSDP2: there is one copy of the model")
    model = recipe.model.model_copy(update={"attention": attention.name})
    resolved = recipe.model_copy(update={"model": model, "strategy": strategy})
    return resolved, warnings


def _batch(recipe: Recipe, topology: Topology) -> Batch:
    return make_batch(
        global_batch_size=recipe.batch.global_batch_size,
        max_per_device_batch_size=recipe.batch.max_per_device_batch_size,
        world_size=topology.world_size,
        seq_len=recipe.data.seq_len,
        sequence_parallel=recipe.strategy.sequence_parallel,
    )


def _idle_warning(batch: Batch) -> list[str]:
    if not batch.idle:
        return []
    degree = batch.sequence_parallel
    sizes = nearest_without_idle(batch.data_ranks, batch.global_batch_size)
    nearest = " or ".join(str(size * degree) for size in sizes)
    ranks = f"{batch.world_size} ranks" if degree == 1 else f"{batch.data_ranks} groups of {degree} ranks"
    return [
        f"{batch.idle} of {batch.slots} slots of each step are idle ({batch.idle_share:.0%}): "
        f"{batch.global_batch_size} rows do not divide over {ranks}; "
        f"{nearest} ranks have none"
    ]


def _step_warnings(recipe: Recipe, steps: Steps) -> list[str]:
    return [*_warmup_warning(recipe, steps), *_best_warning(recipe, steps)]


def _best_warning(recipe: Recipe, steps: Steps) -> list[str]:
    """Both an evaluation and a checkpoint are needed at a step that can be the best."""
    evaluated, saved = recipe.evaluation.every_steps, recipe.checkpoint.every_steps
    both = math.lcm(evaluated, saved)
    is_chosen = recipe.checkpoint.keep_best and recipe.data.validation_share > 0
    if not is_chosen or both == max(evaluated, saved) or max(evaluated, saved) >= steps.total:
        return []
    return [
        f"only every {both}th step and the last can be the best: checkpoints are saved every {saved} "
        f"steps, evaluations made every {evaluated}; make evaluation.every_steps or checkpoint.every_steps a "
        "multiple of the other"
    ]


def _warmup_warning(recipe: Recipe, steps: Steps) -> list[str]:
    warmup = recipe.optim.warmup_steps
    if warmup < steps.total:
        return []
    peak = recipe.optim.learning_rate * steps.total / warmup
    return [
        f"the warm-up never ends: {warmup} warm-up steps, {steps.total} steps in all, so the learning rate "
        f"reaches {peak:.2g} of {recipe.optim.learning_rate:.2g}; lower optim.warmup_steps or train longer"
    ]
