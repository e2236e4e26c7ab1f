"""What was measured of a checkpoint: held-out figures, beside those of the base model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.markdown import section, spread, table
from gemfit.schemas.evaluation import Interval, Score, SubjectScores
from gemfit.schemas.metrics import EvalRecord

LOSS, PERPLEXITY, ACCURACY = "loss (nats per token)", "perplexity", "token accuracy"


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out figures of the checkpoint."""

    metrics: tuple[tuple[str, str, Interval], ...]
    """Name on the Hub, name for people, value."""
    confidence: float | None
    """Of the intervals; ``None``: there are none."""


def measured(facts: CardFacts) -> Measured | None:
    """Of an evaluation with intervals, else of the last evaluation during training, else nothing."""
    if (subject := evaluated(facts)) is not None:
        assert facts.evaluation is not None
        score, confidence = subject.overall, facts.evaluation.confidence
        return Measured(_metrics(score.loss, score.perplexity, score.token_accuracy), confidence)
    if (record := last_evaluation(facts)) is not None:
        return Measured(_metrics(*map(_exact, (record.loss, record.perplexity, record.token_accuracy))), None)
    return None


def evaluated(facts: CardFacts) -> SubjectScores | None:
    """What ``evaluation.json`` says of the checkpoint, if it measured it on the run's own pack."""
    evaluation = facts.evaluation
    if evaluation is None or evaluation.pack != facts.plan.pack.fingerprint:
        return None
    return next((subject for subject in evaluation.subjects if subject.step == facts.step), None)


def last_evaluation(facts: CardFacts) -> EvalRecord | None:
    """The newest one during training, up to the checkpoint."""
    return facts.history.evaluations[-1] if facts.history.evaluations else None


def results_section(facts: CardFacts) -> str:
    """Held-out figures with their intervals, or without, said so."""
    if evaluated(facts) is not None:
        return section("Results", *_with_intervals(facts))
    record, step = last_evaluation(facts), facts.step
    other = _other_steps(facts)
    if record is None:
        return section("Results", other, "Not evaluated: nothing was measured on held-out conversations.")
    where = "this checkpoint" if record.step == step else f"before the checkpoint of step {step:,}"
    rows = [
        ("trained for " + f"{entry.step:,} steps" if entry.step else "before training", *_plain(entry))
        for entry in spread(facts.history.evaluations)
    ]
    return section(
        "Results",
        other,
        f"Measured during training, on {record.tokens:,} tokens of held-out conversations, the last time at "
        f"step {record.step:,}, {where}. These figures have no intervals: `gemfit eval` gives them.",
        table(("model", LOSS, PERPLEXITY, ACCURACY), rows, numbers=(LOSS, PERPLEXITY, ACCURACY)),
    )


def _with_intervals(facts: CardFacts) -> Iterable[str]:
    evaluation, mine = facts.evaluation, evaluated(facts)
    assert evaluation is not None
    assert mine is not None
    numbers = (LOSS, PERPLEXITY, ACCURACY, "tokens", "conversations")
    yield (
        f"On the held-out split, with intervals at {evaluation.confidence:.0%} confidence: bootstrap over "
        f"conversations, {evaluation.resamples:,} resamples, seed {evaluation.seed}."
    )
    rows = [(_name(facts, subject), *_scored(subject.overall)) for subject in evaluation.subjects]
    yield table(("model", *numbers), rows, numbers=numbers)
    if evaluation.differences:
        less = f"loss less that of {evaluation.subjects[0].name}"
        differing = [(name, interval_text(value)) for name, value in evaluation.differences.items()]
        yield table(("model", less), differing, numbers=(less,))
    for title, scores in (("role", mine.roles), ("turn", mine.depths)):
        if scores:
            yield table((title, *numbers), [(k, *_scored(v)) for k, v in scores.items()], numbers=numbers)
    if tasks := [(t.task, t.metric, f"{t.value:.4f}", _stderr(t.stderr)) for t in mine.tasks]:
        yield table(("task", "metric", "value", "standard error"), tasks, numbers=("value", "standard error"))


def _name(facts: CardFacts, subject: SubjectScores) -> str:
    return f"{subject.name} (this model)" if subject.step == facts.step else subject.name


def _other_steps(facts: CardFacts) -> str:
    if facts.evaluation is None:
        return ""
    names = ", ".join(subject.name for subject in facts.evaluation.subjects)
    if facts.evaluation.pack != facts.plan.pack.fingerprint:
        return f"An evaluation of {names} exists, on other data than that of this checkpoint."
    return f"An evaluation of {names} exists, which is not of this checkpoint (step {facts.step:,})."


def _scored(score: Score) -> tuple[str, ...]:
    figures = (score.loss, score.perplexity, score.token_accuracy)
    return (*map(interval_text, figures), f"{score.tokens:,}", f"{score.conversations:,}")


def _plain(record: EvalRecord) -> tuple[str, str, str]:
    return f"{record.loss:.4f}", f"{record.perplexity:.4f}", f"{record.token_accuracy:.4f}"


def interval_text(value: Interval) -> str:
    """Such as ``3.1416 [3.1000, 3.2000]``."""
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _stderr(value: float | None) -> str:
    return "not given" if value is None else f"{value:.4f}"


def _metrics(
    loss: Interval, perplexity: Interval, accuracy: Interval
) -> tuple[tuple[str, str, Interval], ...]:
    return (
        ("loss", "loss in nats per token", loss),
        ("perplexity", "perplexity", perplexity),
        ("accuracy", "token accuracy", accuracy),
    )


def _exact(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)
