"""How a checkpoint was trained: hyperparameters as they ran, hardware, time and energy, by attempt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from gemfit.modelcard.attempts import Attempt
from gemfit.modelcard.carbon import PUE, UTILISATION, Energy, estimate, measured
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.markdown import bullets, facts, section, table
from gemfit.schemas.metrics import Gpu, HardwareRecord
from gemfit.schemas.optimizer import OPTIMIZERS, optimizer_of
from gemfit.schemas.plan import Plan
from gemfit.schemas.training_identity import Flat, changes, flatten

NOT_LOGGED = "not counted: `tracking.log_every_steps` left steps out of the metrics"


def training_section(told: CardFacts) -> str:
    """Hyperparameters and what was trained."""
    return section(
        "Training",
        section("Hyperparameters as they ran", facts(_hyperparameters(told.plan)), level=3),
        section("Progress", facts(_progress(told)), level=3),
        section("Changes between attempts", bullets(_changes(told.attempts)), level=3)
        if len(told.attempts) > 1
        else "",
    )


def hardware_section(told: CardFacts) -> str:
    """Machines of every attempt, time and energy."""
    head = ("attempt", "steps", "strategy", "ranks", "hosts", "devices", "seconds")
    rows = [_attempt_row(attempt) for attempt in told.attempts]
    newest = next((a.hardware for a in reversed(told.attempts) if a.hardware is not None), None)
    versions = newest.versions.items() if newest else ()
    return section(
        "Hardware, time and energy",
        table(head, rows, numbers=("attempt", "ranks", "hosts", "seconds")),
        facts(_times(told)),
        "Seconds of an attempt run from the start of its training to its last record. Starting processes, "
        "reading weights and packing the data are not counted.",
        section("Energy", facts(_energy(told)), level=3),
        section("Versions", facts(versions) if newest else "Not recorded.", level=3),
    )


def _hyperparameters(plan: Plan) -> Iterable[tuple[str, str]]:
    recipe, batch, optim = plan.recipe, plan.batch, plan.recipe.optim
    model, lora = recipe.model, recipe.model.lora
    yield "trained", "everything" if lora is None else f"LoRA of rank {lora.rank}, alpha {lora.alpha}"
    if lora is not None:
        yield "adapted modules", ", ".join(lora.targets)
        yield "LoRA dropout", f"{lora.dropout:g}"
    yield "global batch", f"{batch.global_batch_size:,} rows of {batch.seq_len:,} tokens"
    yield (
        "cut into",
        f"{batch.per_device_batch_size} per rank x {batch.world_size} ranks x "
        f"{batch.gradient_accumulation_steps} gradient accumulation steps",
    )
    yield "optimizer", OPTIMIZERS[optimizer_of(recipe, plan.topology)]
    yield "betas, epsilon", f"{optim.betas[0]:g}, {optim.betas[1]:g}, {optim.eps:g}"
    yield "weight decay", f"{optim.weight_decay:g}"
    yield "peak learning rate", f"{optim.learning_rate:g}"
    yield "schedule", optim.schedule
    yield "warm-up", f"{optim.warmup_steps:,} steps"
    yield "gradient norm clipped at", f"{optim.max_grad_norm:g}"
    yield "steps planned", f"{plan.steps.total:,}"
    yield "loss on", "every token" if recipe.data.loss_on == "all" else "tokens of the assistant"
    if model.quantization is None:
        yield "precision", f"{model.dtype} computation, float32 master weights"
    else:
        scales = ", with scales in 8 bits" if model.quantization.double else ""
        yield "base weights", f"frozen; linear layers in 4 bits ({model.quantization.type}{scales})"
        yield "precision", f"{model.dtype} computation, float32 adapters"
    yield "attention", f"{model.attention}; packed conversations do not see each other"
    yield "activation checkpointing", "yes" if model.activation_checkpointing else "no"
    yield "strategy", recipe.strategy.label
    yield "seed", str(recipe.seed)


def _progress(told: CardFacts) -> Iterable[tuple[str, str]]:
    steps, verdict = told.history.steps, told.verdict
    complete = len(steps) == told.step
    yield "optimizer steps", f"{told.step:,}"
    yield "epochs", f"{told.step / told.plan.steps.per_epoch:.4f}"
    yield "tokens seen", _sum([record.tokens for record in steps], complete)
    yield "tokens trained on", _sum([record.trained_tokens for record in steps], complete)
    if verdict is not None:
        yield (
            "the run",
            verdict.outcome + (f": {verdict.reason}" if verdict.reason else " with this checkpoint"),
        )
    if steps:
        yield "training loss, first step", f"{steps[0].loss:.4f}"
        yield "training loss, last step", f"{steps[-1].loss:.4f}"
        yield "learning rate, last step", f"{steps[-1].learning_rate:g}"


def _sum(counts: list[int | None], complete: bool) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if complete and len(known) == len(counts) else NOT_LOGGED


def _changes(attempts: tuple[Attempt, ...]) -> Iterable[str]:
    for before, after in pairwise(attempts):
        found = changes(_comparable(before.plan), _comparable(after.plan))
        told = "; ".join(map(str, found)) if found else "no change"
        yield f"attempt {after.number}, from step {after.first_step:,} on: {told}"


def _comparable(plan: Plan) -> Flat:
    recipe = plan.recipe.model_dump(mode="json", exclude={"description": True, "data": {"source", "sources"}})
    return flatten(recipe) | flatten(plan.topology.model_dump(mode="json"), "topology")


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    hardware, plan = attempt.hardware, attempt.plan
    return (
        str(attempt.number),
        f"{attempt.first_step:,} to {attempt.last_step:,}",
        plan.recipe.strategy.label,
        str(hardware.ranks if hardware else plan.topology.world_size),
        str(len(hardware.hosts) if hardware else plan.topology.nodes),
        devices(hardware) if hardware else f"not recorded ({plan.topology.device})",
        f"{attempt.seconds:.0f}",
    )


def devices(hardware: HardwareRecord) -> str:
    """GPUs of each kind, else processors, in words."""
    names = [_gpu_name(gpu) for gpu in hardware.gpus] or [
        f"{host.cpu}, {host.cores} logical cores, {host.memory / 2**30:.0f} GiB" for host in hardware.hosts
    ]
    counted = {name: names.count(name) for name in names}
    return "; ".join(f"{count} x {name}" for name, count in counted.items())


def _gpu_name(gpu: Gpu) -> str:
    limit = "" if gpu.power_limit_watts is None else f", {gpu.power_limit_watts:.0f} W"
    return f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB{limit}"


def _times(told: CardFacts) -> Iterable[tuple[str, str]]:
    steps, evaluations, saves = told.history.steps, told.history.evaluations, told.history.saves
    yield "all attempts", f"{sum(attempt.seconds for attempt in told.attempts):.0f} seconds"
    yield "in steps that stand", f"{sum(record.seconds or 0.0 for record in steps):.0f} seconds"
    yield "in evaluations that stand", f"{sum(record.seconds or 0.0 for record in evaluations):.0f} seconds"
    yield "waiting for saves that stand", f"{sum(record.stall_seconds for record in saves):.0f} seconds"


def _energy(told: CardFacts) -> Iterable[tuple[str, str]]:
    yield (
        "measured, processors",
        _kwh(measured(told.attempts, "cpu_joules"), "whatever else ran on the hosts too"),
    )
    yield "measured, boards", _kwh(measured(told.attempts, "gpu_joules"), "of the GPUs that ranks used")
    found = estimate(told.attempts, told.stated.pue or PUE)
    if not isinstance(found, Energy):
        yield "upper estimate", f"not estimated: {found}"
        yield "CO2", "not estimated, because the energy is not"
        return
    source = "as stated by the publisher" if told.stated.pue else "an average of data centres, 2024"
    yield "upper estimate", f"{found.kwh:.3f} kWh"
    yield "how", "boards x power limit x seconds of the attempts x utilisation x PUE"
    yield "utilisation", f"{UTILISATION:.0%}, a bound: boards at their power limit all the time"
    yield "PUE", f"{found.pue:g}, {source}"
    yield "not in it", "processors, memory, network, and the time outside training"
    intensity = told.stated.grid_intensity
    if intensity is None:
        yield "CO2", "not estimated: nobody has stated the intensity of the grid"
    else:
        grams = f"{found.kwh * intensity:.0f} g at {intensity:g} g/kWh"
        yield "CO2 equivalent, upper estimate", f"{grams}, as stated by the publisher"


def _kwh(found: float | str, of: str) -> str:
    return f"not known: {found}" if isinstance(found, str) else f"{found:.6f} kWh, {of}"
