"""Results in a model card: validation metrics with intervals, side by side with the base model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gemfit.modelcard.facts import CardFacts
from gemfit.schemas.evaluation import EvaluatedModel, Evaluation, Interval
from gemfit.schemas.metrics import EvalRecord
from gemfit.summary.evaluation import ACCURACY, LOSS, METRICS, group_tables, score_table, summarize_evaluation
from gemfit.summary.markdown import render, section, spread, table


class HubMetric(NamedTuple):
    """One metric of the checkpoint as the header of the card has it."""

    kind: str
    """Its name on the Hub."""
    name: str
    value: Interval
    confidence: float | None
    """Of the interval; ``None``: there is none."""


def hub_metrics(facts: CardFacts) -> list[HubMetric]:
    """Metrics of an evaluation with intervals, else of the last validation during training, else none."""
    if (scores := evaluated(facts)) is not None and facts.evaluation is not None:
        return _hub_metrics(*(m.of(scores.overall) for m in METRICS), confidence=facts.evaluation.confidence)
    if (record := last_validation(facts)) is not None:
        return _hub_metrics(*map(_exact, (record.loss, record.perplexity, record.token_accuracy)))
    return []


def evaluated(facts: CardFacts) -> EvaluatedModel | None:
    """Scores of the checkpoint in ``evaluation.json``, if they are of the run's own pack."""
    evaluation = facts.evaluation
    if evaluation is None or evaluation.pack != facts.plan.pack.fingerprint:
        return None
    return next((model for model in evaluation.models if model.step == facts.step), None)


def last_validation(facts: CardFacts) -> EvalRecord | None:
    """The newest one during training, up to the checkpoint."""
    return facts.history.evaluations[-1] if facts.history.evaluations else None


def results_section(facts: CardFacts) -> str:
    """Validation metrics with their intervals; without an evaluation, those of the training."""
    scores, record = evaluated(facts), last_validation(facts)
    if scores is not None and facts.evaluation is not None:
        return section("Results", *_with_intervals(facts.evaluation, scores))
    if record is None:
        text = "Not evaluated: nothing was measured on a validation split."
        return section("Results", _other_checkpoints(facts), text)
    where = (
        "this checkpoint" if record.step == facts.step else f"before the checkpoint of step {facts.step:,}"
    )
    rows = [
        (
            f"trained for {entry.step:,} steps" if entry.step else "before training",
            f"{entry.loss:.4f}",
            f"{entry.perplexity:.4g}",
            f"{entry.token_accuracy:.2%}",
        )
        for entry in spread(facts.history.evaluations)
    ]
    names = [metric.name for metric in METRICS]
    return section(
        "Results",
        _other_checkpoints(facts),
        f"Measured during training on {record.tokens:,} tokens of the validation split, last at step "
        f"{record.step:,}, {where}; losses in nats per token, without intervals. `gemfit eval` adds them.",
        table(("model", *names), rows, numbers=names),
    )


def _with_intervals(evaluation: Evaluation, scores: EvaluatedModel) -> Iterator[str]:
    summary = summarize_evaluation(evaluation)
    yield f"This model is `{scores.name}`. {summary.method}"
    tables = [score_table(summary.models), *group_tables(summary, [LOSS, ACCURACY]), summary.tasks]
    yield from (render(table) for table in tables if table is not None)


def _other_checkpoints(facts: CardFacts) -> str:
    if facts.evaluation is None:
        return ""
    names = ", ".join(model.name for model in facts.evaluation.models)
    if facts.evaluation.pack != facts.plan.pack.fingerprint:
        return f"An evaluation of {names} exists, on other data than that of this checkpoint."
    return f"An evaluation of {names} exists, which is not of this checkpoint (step {facts.step:,})."


def _hub_metrics(
    loss: Interval, perplexity: Interval, accuracy: Interval, *, confidence: float | None = None
) -> list[HubMetric]:
    return [
        HubMetric("loss", "loss in nats per token", loss, confidence),
        HubMetric("perplexity", "perplexity", perplexity, confidence),
        HubMetric("accuracy", "token accuracy", accuracy, confidence),
    ]


def _exact(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)
