"""Training in a model card: hyperparameters, progress, and hardware, time and energy of each attempt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from gemfit.modelcard.energy import PUE, UTILISATION, EnergyEstimate, estimate_energy, measured_energy
from gemfit.modelcard.facts import CardFacts
from gemfit.schemas.metrics import Gpu, HardwareRecord
from gemfit.schemas.optimizer import OPTIMIZERS, optimizer_of
from gemfit.schemas.plan import Plan
from gemfit.schemas.training_identity import Flat, changes, flatten
from gemfit.summary.attempts import AttemptSummary
from gemfit.summary.markdown import bullets, key_values, section, table

NOT_LOGGED = "unknown: `tracking.log_every_steps` left steps out of the metrics"


def training_section(facts: CardFacts) -> str:
    """Hyperparameters, progress, and changes between attempts."""
    return section(
        "Training",
        section("Hyperparameters", key_values(_hyperparameters(facts.plan)), level=3),
        section("Progress", key_values(_progress(facts)), level=3),
        section("Changes between attempts", bullets(_changes(facts.attempts)), level=3)
        if len(facts.attempts) > 1
        else "",
    )


def hardware_section(facts: CardFacts) -> str:
    """Machines of every attempt, time and energy."""
    head = ("attempt", "steps", "strategy", "ranks", "hosts", "devices", "seconds")
    rows = [_attempt_row(attempt) for attempt in facts.attempts]
    newest = next((a.hardware for a in reversed(facts.attempts) if a.hardware is not None), None)
    versions = newest.versions.items() if newest else ()
    return section(
        "Hardware, time and energy",
        table(head, rows, numbers=("attempt", "ranks", "hosts", "seconds")),
        key_values(_times(facts)),
        "Seconds of an attempt are from the start of its training to its last record, without starting "
        "processes, reading weights and packing the data.",
        section("Energy", key_values(_energy(facts)), level=3),
        section("Versions", key_values(versions) if newest else "Not recorded.", level=3),
    )


def _hyperparameters(plan: Plan) -> Iterable[tuple[str, str]]:
    recipe, batch, optim = plan.recipe, plan.batch, plan.recipe.optim
    model, lora = recipe.model, recipe.model.lora
    yield "trained parameters", "all" if lora is None else f"LoRA of rank {lora.rank}, alpha {lora.alpha}"
    if lora is not None:
        yield "adapted modules", ", ".join(lora.targets)
        yield "LoRA dropout", f"{lora.dropout:g}"
    yield "global batch", f"{batch.global_batch_size:,} rows of {batch.seq_len:,} tokens"
    yield (
        "split into",
        f"{batch.per_device_batch_size} per rank x {batch.world_size} ranks x "
        f"{batch.gradient_accumulation_steps} gradient accumulation steps",
    )
    yield "optimizer", OPTIMIZERS[optimizer_of(recipe, plan.topology)]
    yield "betas, epsilon", f"{optim.betas[0]:g}, {optim.betas[1]:g}, {optim.eps:g}"
    yield "weight decay", f"{optim.weight_decay:g}"
    yield "peak learning rate", f"{optim.learning_rate:g}"
    yield "schedule", optim.schedule
    yield "warm-up", f"{optim.warmup_steps:,} steps"
    yield "maximum gradient norm", f"{optim.max_grad_norm:g}"
    yield "planned steps", f"{plan.steps.total:,}"
    yield "loss on", "all tokens" if recipe.data.loss_on == "all" else "assistant tokens"
    if model.quantization is None:
        yield "precision", f"{model.dtype} computation, float32 master weights"
    else:
        scales = ", with 8-bit scales" if model.quantization.double else ""
        yield "base weights", f"frozen; linear layers in 4 bit ({model.quantization.type}{scales})"
        yield "precision", f"{model.dtype} computation, float32 adapters"
    yield "attention", f"{model.attention}; no attention between packed conversations"
    yield "activation checkpointing", "yes" if model.activation_checkpointing else "no"
    yield "strategy", recipe.strategy.label
    yield "seed", str(recipe.seed)


def _progress(facts: CardFacts) -> Iterable[tuple[str, str]]:
    steps, verdict = facts.history.steps, facts.verdict
    complete = len(steps) == facts.step
    yield "optimizer steps", f"{facts.step:,}"
    yield "epochs", f"{facts.step / facts.plan.steps.per_epoch:.4f}"
    yield "tokens seen", _sum([record.tokens for record in steps], complete)
    yield "trained tokens", _sum([record.trained_tokens for record in steps], complete)
    if verdict is not None:
        yield (
            "run",
            verdict.outcome + (f": {verdict.reason}" if verdict.reason else " with this checkpoint"),
        )
    if steps:
        yield "training loss, first step", f"{steps[0].loss:.4f}"
        yield "training loss, last step", f"{steps[-1].loss:.4f}"
        yield "learning rate, last step", f"{steps[-1].learning_rate:g}"


def _sum(counts: list[int | None], complete: bool) -> str:
    logged = [count for count in counts if count is not None]
    return f"{sum(logged):,}" if complete and len(logged) == len(counts) else NOT_LOGGED


def _changes(attempts: tuple[AttemptSummary, ...]) -> Iterable[str]:
    for before, after in pairwise(attempts):
        found = changes(_comparable(before.plan), _comparable(after.plan))
        text = "; ".join(map(str, found)) if found else "no change"
        yield f"attempt {after.number}, from step {after.first_step:,}: {text}"


def _comparable(plan: Plan) -> Flat:
    recipe = plan.recipe.model_dump(mode="json", exclude={"description": True, "data": {"source", "sources"}})
    return flatten(recipe) | flatten(plan.topology.model_dump(mode="json"), "topology")


def _attempt_row(attempt: AttemptSummary) -> tuple[str, ...]:
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
    """GPUs of each kind, else CPUs."""
    names = [_gpu_name(gpu) for gpu in hardware.gpus] or [
        f"{host.cpu}, {host.cores} logical cores, {host.memory / 2**30:.0f} GiB" for host in hardware.hosts
    ]
    counted = {name: names.count(name) for name in names}
    return "; ".join(f"{count} x {name}" for name, count in counted.items())


def _gpu_name(gpu: Gpu) -> str:
    limit = "" if gpu.power_limit_watts is None else f", {gpu.power_limit_watts:.0f} W"
    return f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB{limit}"


def _times(facts: CardFacts) -> Iterable[tuple[str, str]]:
    steps, evaluations, saves = facts.history.steps, facts.history.evaluations, facts.history.saves
    yield "all attempts", f"{sum(attempt.seconds for attempt in facts.attempts):.0f} seconds"
    yield "training steps", f"{sum(record.seconds or 0.0 for record in steps):.0f} seconds"
    yield "validation", f"{sum(record.seconds or 0.0 for record in evaluations):.0f} seconds"
    yield "waiting for checkpoints", f"{sum(record.stall_seconds for record in saves):.0f} seconds"


def _energy(facts: CardFacts) -> Iterable[tuple[str, str]]:
    yield (
        "measured, CPUs",
        _kwh(measured_energy(facts.attempts, "cpu_joules"), "other processes of the hosts included"),
    )
    yield "measured, GPUs", _kwh(measured_energy(facts.attempts, "gpu_joules"), "GPUs of the ranks")
    found = estimate_energy(facts.attempts, facts.user.pue or PUE)
    if not isinstance(found, EnergyEstimate):
        yield "upper estimate", f"not estimated: {found}"
        yield "CO2", "not estimated, because the energy is unknown"
        return
    source = "stated by the publisher" if facts.user.pue else "average of data centres, 2024"
    yield "upper estimate", f"{found.kwh:.3f} kWh"
    yield "how", "GPUs x power limit x seconds of the attempts x utilisation x PUE"
    yield "utilisation", f"{UTILISATION:.0%}, an upper bound: GPUs at their power limit all the time"
    yield "PUE", f"{found.pue:g}, {source}"
    yield "not included", "CPUs, memory, network, and the time outside training"
    intensity = facts.user.grid_intensity
    if intensity is None:
        yield "CO2", "not estimated: the carbon intensity of the grid was not stated"
    else:
        grams = f"{found.kwh * intensity:.0f} g at {intensity:g} g/kWh"
        yield "CO2 equivalent, upper estimate", f"{grams}, stated by the publisher"


def _kwh(found: float | str, of: str) -> str:
    return f"unknown: {found}" if isinstance(found, str) else f"{found:.6f} kWh, {of}"
