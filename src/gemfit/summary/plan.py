"""Hyperparameters of a plan as name and value, and how two plans differ."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.schemas.optimizer import OPTIMIZERS, optimizer_of
from gemfit.schemas.plan import Plan
from gemfit.schemas.training_identity import Flat, changes, flatten


def hyperparameters(plan: Plan) -> Iterator[tuple[str, str]]:
    """Everything that decides what is computed, as it ran."""
    recipe, batch, optim = plan.recipe, plan.batch, plan.recipe.optim
    model, lora = recipe.model, recipe.model.lora
    yield "trained parameters", "all" if lora is None else f"{lora.label}, alpha {lora.alpha}"
    if lora is not None:
        adapted = (lora.targets,) if isinstance(lora.targets, str) else lora.targets
        yield "adapted modules", ", ".join(adapted)
        if lora.modules_to_save:
            yield "modules trained whole", ", ".join(lora.modules_to_save)
        yield "LoRA dropout", f"{lora.dropout:g}"
    yield "global batch", f"{batch.global_batch_size:,} rows of {batch.seq_len:,} tokens"
    degree = batch.sequence_parallel
    holder = "rank" if degree == 1 else "group"
    holders = "ranks" if degree == 1 else f"groups of {degree} ranks that share each row"
    yield (
        "split into",
        f"{batch.per_device_batch_size} per {holder} x {batch.data_ranks} {holders} x "
        f"{batch.gradient_accumulation_steps} gradient accumulation steps",
    )
    yield "optimizer", OPTIMIZERS[optimizer_of(recipe, plan.topology)]
    yield "betas, epsilon", f"{optim.betas[0]:g}, {optim.betas[1]:g}, {optim.eps:g}"
    yield "weight decay", f"{optim.weight_decay:g}"
    yield "peak learning rate", f"{optim.learning_rate:g}"
    yield "schedule", optim.schedule
    yield "warm-up", f"{optim.warmup_steps:,} steps, {plan.steps.warmup_share:.0%} of all"
    yield "maximum gradient norm", f"{optim.max_grad_norm:g}"
    yield "planned steps", f"{plan.steps.total:,}, {plan.steps.per_epoch:,.1f} per epoch"
    yield "loss on", "all tokens" if recipe.data.loss_on == "all" else "assistant tokens"
    if model.quantization is None:
        yield "precision", f"{model.dtype} computation, float32 master weights"
    else:
        scales = ", with 8-bit scales" if model.quantization.double else ""
        yield "base weights", f"frozen; linear layers in 4 bit ({model.quantization.type}{scales})"
        yield "precision", f"{model.dtype} computation, float32 adapters"
    yield "attention", f"{plan.attention}; no attention between packed conversations"
    yield "activation checkpointing", "yes" if model.activation_checkpointing else "no"
    yield "strategy", recipe.strategy.label
    yield "seed", str(recipe.seed)
    if recipe.skip_documents:
        yield "conversations without loss", ", ".join(map(str, recipe.skip_documents))


def plan_changes(before: Plan, after: Plan) -> str:
    """Settings that differ between the plans of two attempts; where the data is does not count."""
    return "; ".join(map(str, changes(_comparable(before), _comparable(after))))


def _comparable(plan: Plan) -> Flat:
    recipe = plan.recipe.model_dump(mode="json", exclude={"description": True, "data": {"source", "sources"}})
    return flatten(recipe) | flatten(plan.topology.model_dump(mode="json"), "topology")
