"""Key figures of a run: loss, tokens/s, MFU, and shares of the wall time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from gemfit.report.load import RunReport
from gemfit.schemas.metrics import EvalRecord, StepRecord
from gemfit.summary.attempts import steps_per_record
from gemfit.summary.format import duration, number, plural

Count = TypeVar("Count", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFigures:
    """Over all attempts; a repeated step counts once, as the later attempt trained it.

    A recorded step stands for those before it that `tracking.log_every_steps` left out.
    """

    step: int
    total_steps: int
    loss: float
    """Of the last step, in nats per token."""
    best: EvalRecord | None
    """The validation with the lowest loss."""
    tokens: int | None
    """Real tokens of all steps; `None` where the records do not have them."""
    trained_tokens: int | None
    estimated: bool
    """Whether steps have no record, so that sums over all steps are estimates."""
    wall_seconds: float
    """From the first record to the last one, pauses between attempts included."""
    step_seconds: float | None
    """Sum over all steps."""
    tokens_per_second: float | None
    """`tokens` over `step_seconds`: without validation, checkpoints and pauses."""
    mfu: float | None
    """Model FLOPs utilisation, mean weighted by time."""


def key_figures(run: RunReport) -> KeyFigures:
    """The figures at the top of a report."""
    steps, counts = run.steps, steps_per_record(run.steps)
    tokens = _sum([step.tokens for step in steps], counts)
    seconds = _sum([step.seconds for step in steps], counts)
    finite = [e for e in run.history.evaluations if math.isfinite(e.loss)]
    used = [
        (mfu, count * step.seconds)
        for step, count, mfu in zip(steps, counts, mfu_of(run), strict=True)
        if mfu is not None and step.seconds
    ]
    return KeyFigures(
        step=steps[-1].step,
        total_steps=run.plan.steps.total,
        loss=steps[-1].loss,
        best=min(finite, key=lambda e: e.loss, default=None),
        tokens=tokens,
        trained_tokens=_sum([step.trained_tokens for step in steps], counts),
        estimated=len(steps) < sum(counts),
        wall_seconds=run.attempts[-1].end - run.attempts[0].begin,
        step_seconds=seconds,
        tokens_per_second=tokens / seconds if tokens is not None and seconds else None,
        mfu=sum(m * s for m, s in used) / sum(s for _, s in used) if used else None,
    )


def mfu_of(run: RunReport) -> list[float | None]:
    """Model FLOPs utilisation (MFU) of each step: tokens/s x FLOPs per token / (peak of a GPU x ranks).

    Convention of "PaLM" (Chowdhery et al. 2022, appendix B): recomputed activations do not count.
    """
    facts = run.facts
    if facts.peak_flops is None or facts.flops_per_token is None:
        return [None] * len(run.steps)
    ranks = {attempt.number: attempt.plan.topology.world_size for attempt in run.attempts}
    return [
        step.tokens_per_second * facts.flops_per_token / (facts.peak_flops * ranks[step.attempt])
        for step in run.steps
    ]


def time_shares(run: RunReport) -> dict[str, float]:
    """Breakdown of the wall time in seconds; the parts sum to it.

    The remainder has no record: starting, compiling, pauses between attempts. A recorded step stands for
    those before it that `tracking.log_every_steps` left out.
    """
    history, steps = run.history, run.steps
    counts = steps_per_record(steps)
    waited = sum(n * (step.data_seconds or 0.0) for n, step in zip(counts, steps, strict=True))
    trained = sum(n * (step.seconds or 0.0) for n, step in zip(counts, steps, strict=True))
    repeated = (zip(one.repeats, one.steps, strict=True) for one in run.attempts)
    parts = {
        "computing": trained - waited,
        "waiting for data": waited,
        "repeated steps": sum(n * (step.seconds or 0.0) for n, step in chain.from_iterable(repeated)),
        "validation": sum(record.seconds or 0.0 for record in history.evaluations),
        "waiting for checkpoints": sum(record.stall_seconds for record in history.saves),
    }
    wall = run.attempts[-1].end - run.attempts[0].begin
    return parts | {"starting and pauses": max(0.0, wall - sum(parts.values()))}


def cumulative_tokens(steps: tuple[StepRecord, ...]) -> list[int] | None:
    """Tokens up to each recorded step; ``None`` where the records do not have them."""
    total, sums = 0, []
    for step, count in zip(steps, steps_per_record(steps), strict=True):
        if step.tokens is None:
            return None
        sums.append(total := total + count * step.tokens)
    return sums


def summarize(run: RunReport, figures: KeyFigures) -> str:
    """The run in a paragraph."""
    plan = run.plan
    sentences = [
        f"{_what(run)} was trained for {figures.step:,} of {plural(figures.total_steps, 'step')} "
        f"of {plan.batch.global_batch_size:,} rows of {plan.batch.seq_len:,} tokens, with "
        f"{plan.recipe.strategy.label} on {plural(plan.topology.world_size, _device(run))}.",
        _how_it_went(run),
        _losses(run, figures),
    ]
    if figures.tokens is not None and figures.tokens_per_second is not None:
        about = "about " if figures.estimated else ""
        sentences.append(
            f"It trained on {about}{figures.tokens:,} tokens at {figures.tokens_per_second:,.0f} tokens/s, "
            f"in {duration(figures.wall_seconds)} of wall time."
        )
    return " ".join(sentences)


def _what(run: RunReport) -> str:
    model = run.plan.recipe.model
    base = model.id or "A Gemma 3 with random weights"
    return f"{model.lora.label} on {base}" if model.lora else base


def _device(run: RunReport) -> str:
    return "CPU rank" if run.plan.topology.device == "cpu" else "GPU"


def _how_it_went(run: RunReport) -> str:
    attempts = plural(len(run.attempts), "attempt")
    again = f"; {plural(run.num_repeated, 'step')} had to be repeated" if run.num_repeated else ""
    reason = f": {run.verdict.reason}" if run.verdict and run.verdict.reason else ""
    return f"The run is {run.state} after {attempts}{again}{reason}."


def _losses(run: RunReport, figures: KeyFigures) -> str:
    evaluations = run.history.evaluations
    if not evaluations or figures.best is None:
        return f"Its last training loss is {number(figures.loss, '.4f')}; there was no validation."
    first, best = evaluations[0], figures.best
    if best.step == first.step:
        return f"The validation loss was lowest at step {best.step:,}: {best.loss:.4f}."
    return (
        f"The validation loss went from {first.loss:.4f} at step {first.step:,} "
        f"to {best.loss:.4f} at step {best.step:,} (perplexity {best.perplexity:.4g})."
    )


def _sum(values: list[Count | None], counts: list[int]) -> Count | None:
    """Each value as often as ``counts`` says; ``None`` where one is missing."""
    found = [count * value for value, count in zip(values, counts, strict=True) if value is not None]
    return sum(found, start=found[0] - found[0]) if found and len(found) == len(values) else None
