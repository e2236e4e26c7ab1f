"""Key figures of a run, each from its records by a formula that its docstring names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from gemfit.report.format import duration, number, plural
from gemfit.report.load import Story
from gemfit.schemas.metrics import EvalRecord, StepRecord

Count = TypeVar("Count", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of all attempts; steps that were done again count once, as the later attempt did them."""

    step: int
    total_steps: int
    loss: float
    """Of the last step, in nats per token."""
    best: EvalRecord | None
    """The evaluation on held-out rows with the lowest loss."""
    tokens: int | None
    """Real tokens of all steps; `None` where the records do not have them."""
    trained_tokens: int | None
    wall_seconds: float
    """From the first record to the last one, pauses between attempts included."""
    step_seconds: float | None
    """Of all steps together."""
    tokens_per_second: float | None
    """`tokens` over `step_seconds`: evaluations, saves and pauses are not in it."""
    mfu: float | None
    """Tokens a second times operations a token, over the peak of all cards; mean weighed by time."""


def key_figures(story: Story) -> Figures:
    """The figures of the head of a report."""
    steps = story.steps
    tokens = _sum([step.tokens for step in steps])
    seconds = _sum([step.seconds for step in steps])
    finite = [e for e in story.history.evaluations if math.isfinite(e.loss)]
    used = [(m, s.seconds) for s, m in zip(steps, mfu_of(story), strict=True) if m is not None and s.seconds]
    return Figures(
        step=steps[-1].step,
        total_steps=story.plan.steps.total,
        loss=steps[-1].loss,
        best=min(finite, key=lambda e: e.loss, default=None),
        tokens=tokens,
        trained_tokens=_sum([step.trained_tokens for step in steps]),
        wall_seconds=story.attempts[-1].end - story.attempts[0].begin,
        step_seconds=seconds,
        tokens_per_second=tokens / seconds if tokens is not None and seconds else None,
        mfu=sum(m * s for m, s in used) / sum(s for _, s in used) if used else None,
    )


def mfu_of(story: Story) -> list[float | None]:
    """Model FLOPs utilisation of each step: tokens/s x operations a token / (peak of a card x ranks).

    Convention of "PaLM" (Chowdhery et al. 2022, appendix B): nothing that is computed again counts.
    """
    facts = story.facts
    if facts.peak_flops is None or facts.flops_per_token is None:
        return [None] * len(story.steps)
    ranks = {attempt.number: attempt.plan.topology.world_size for attempt in story.attempts}
    return [
        step.tokens_per_second * facts.flops_per_token / (facts.peak_flops * ranks[step.attempt])
        for step in story.steps
    ]


def time_shares(story: Story) -> dict[str, float]:
    """Where the wall time went, in seconds: the parts sum to it.

    The rest is what no record tells of: starting, compiling, pauses between attempts.
    """
    history, steps = story.history, story.steps
    waited = sum(step.data_seconds or 0.0 for step in steps)
    parts = {
        "computing": sum(step.seconds or 0.0 for step in steps) - waited,
        "waiting for data": waited,
        "steps done again": sum(step.seconds or 0.0 for step in story.redone),
        "held-out evaluation": sum(record.seconds or 0.0 for record in history.evaluations),
        "waiting for checkpoints": sum(record.stall_seconds for record in history.saves),
    }
    wall = story.attempts[-1].end - story.attempts[0].begin
    return parts | {"starting and pauses": max(0.0, wall - sum(parts.values()))}


def cumulative_tokens(steps: tuple[StepRecord, ...]) -> list[int] | None:
    """Tokens up to each step; ``None`` where the records do not have them."""
    total, sums = 0, []
    for step in steps:
        if step.tokens is None:
            return None
        sums.append(total := total + step.tokens)
    return sums


def summarize(story: Story, figures: Figures) -> str:
    """The run in a paragraph."""
    plan = story.plan
    sentences = [
        f"{_what(story)} was trained for {figures.step:,} of {plural(figures.total_steps, 'step')} "
        f"of {plan.batch.global_batch_size:,} rows of {plan.batch.seq_len:,} tokens, with "
        f"{plan.recipe.strategy.label} on {plural(plan.topology.world_size, _device(story))}.",
        _how_it_went(story),
        _losses(story, figures),
    ]
    if figures.tokens is not None and figures.tokens_per_second is not None:
        sentences.append(
            f"It took {figures.tokens:,} tokens at {figures.tokens_per_second:,.0f} tokens a second, "
            f"in {duration(figures.wall_seconds)} of wall time."
        )
    return " ".join(sentences)


def _what(story: Story) -> str:
    model = story.plan.recipe.model
    base = model.id or "A Gemma 3 with random weights"
    return f"LoRA of rank {model.lora.rank} on {base}" if model.lora else base


def _device(story: Story) -> str:
    return "CPU rank" if story.plan.topology.device == "cpu" else "GPU"


def _how_it_went(story: Story) -> str:
    attempts = plural(len(story.attempts), "attempt")
    redone = plural(len(story.redone), "step")
    again = f", and {redone} of them had to be done again" if story.redone else ""
    reason = f": {story.verdict.reason}" if story.verdict and story.verdict.reason else ""
    return f"The run is {story.state} after {attempts}{again}{reason}."


def _losses(story: Story, figures: Figures) -> str:
    evaluations = story.history.evaluations
    if not evaluations or figures.best is None:
        return f"Its last training loss is {number(figures.loss, '.4f')}; nothing was held out or measured."
    first, best = evaluations[0], figures.best
    if best.step == first.step:
        return f"The held-out loss is {best.loss:.4f} at step {best.step:,}, and was never lower."
    return (
        f"The held-out loss went from {first.loss:.4f} at step {first.step:,} "
        f"to {best.loss:.4f} at step {best.step:,} (perplexity {best.perplexity:.4g})."
    )


def _sum(values: list[Count | None]) -> Count | None:
    """``None`` where a value is missing."""
    found = [value for value in values if value is not None]
    return sum(found, start=found[0] - found[0]) if found and len(found) == len(values) else None
