"""Training in a model card: hyperparameters, progress, and hardware, time and energy of each attempt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from gemfit.modelcard.energy import PUE, UTILISATION, EnergyEstimate, estimate_energy, measured_energy
from gemfit.modelcard.facts import CardFacts
from gemfit.schemas.metrics_history import plan_as_trained
from gemfit.summary.attempts import AttemptSummary, attempt_table, steps_per_record
from gemfit.summary.format import duration
from gemfit.summary.markdown import bullets, key_values, render, section
from gemfit.summary.plan import hyperparameters, plan_changes

NOT_LOGGED = "unknown: `tracking.log_every_steps` left steps out of the metrics"


def training_section(facts: CardFacts) -> str:
    """Hyperparameters, progress, and changes between attempts."""
    hardware = (one for one in facts.history.hardware if one.attempt == facts.checkpoint.attempt)
    trained = plan_as_trained(facts.plan, hardware)
    return section(
        "Training",
        section("Hyperparameters", key_values(hyperparameters(trained)), level=3),
        section("Progress", key_values(_progress(facts)), level=3),
        section("Changes between attempts", bullets(_changes(facts.attempts)), level=3)
        if len(facts.attempts) > 1
        else "",
    )


def hardware_section(facts: CardFacts) -> str:
    """Machines of every attempt, time and energy."""
    newest = next((a.hardware for a in reversed(facts.attempts) if a.hardware is not None), None)
    versions = newest.versions.items() if newest else ()
    return section(
        "Hardware, time and energy",
        render(attempt_table(facts.attempts)),
        key_values(_times(facts)),
        "An attempt lasts from the start of its training to its last record, without starting processes, "
        "reading weights and packing the data.",
        section("Energy", key_values(_energy(facts)), level=3),
        section("Versions", key_values(versions) if newest else "Not recorded.", level=3),
    )


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


def _changes(attempts: Sequence[AttemptSummary]) -> Iterable[str]:
    for before, after in pairwise(attempts):
        changed = plan_changes(before.plan, after.plan) or "no change"
        yield f"attempt {after.number}, from step {after.first_step:,}: {changed}"


def _times(facts: CardFacts) -> Iterable[tuple[str, str]]:
    steps, evaluations, saves = facts.history.steps, facts.history.evaluations, facts.history.saves
    yield "all attempts", duration(sum(attempt.seconds for attempt in facts.attempts))
    lasting = zip(steps_per_record(steps), steps, strict=True)
    yield "training steps", duration(sum(count * (record.seconds or 0.0) for count, record in lasting))
    yield "validation", duration(sum(record.seconds or 0.0 for record in evaluations))
    yield "waiting for checkpoints", duration(sum(record.stall_seconds for record in saves))


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
