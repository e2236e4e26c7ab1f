"""Summary of an evaluation: scores of all models side by side, by role and turn, tasks and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gemfit.schemas.evaluation import (
    EvaluatedModel,
    Evaluation,
    Interval,
    Sample,
    SampleMessage,
    Score,
    TaskScore,
)
from gemfit.summary.format import NOTHING, IntervalFormat, interval, number, plural
from gemfit.summary.text_table import TextTable

Groups = dict[str, dict[str, Score]]
"""Score of each model, by group."""


class ScoreMetric(NamedTuple):
    """One metric of a score, and how it is written."""

    name: str
    form: str
    of: Callable[[Score], Interval]


LOSS = ScoreMetric("loss", ".4f", lambda score: score.loss)
PERPLEXITY = ScoreMetric("perplexity", ".4g", lambda score: score.perplexity)
ACCURACY = ScoreMetric("token accuracy", ".2%", lambda score: score.token_accuracy)
METRICS = (LOSS, PERPLEXITY, ACCURACY)


class ModelScore(NamedTuple):
    """One model on the whole split."""

    name: str
    score: Score
    difference: Interval | None = None
    """Its loss less that of the first model, over the same conversations."""


@dataclass(frozen=True, slots=True)
class SampleReplies:
    """One prompt, how the conversation continues, and the reply of each model."""

    prompt: tuple[SampleMessage, ...]
    reference: str
    replies: tuple[tuple[str, str], ...]
    """Model and reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """Values to show of an evaluation."""

    models: tuple[ModelScore, ...]
    groups: dict[str, Groups]
    """By `role` and by `turn`."""
    tasks: TextTable | None
    """Tasks of lm-evaluation-harness, if any."""
    samples: tuple[SampleReplies, ...]
    method: str
    """On what, and how the intervals were made."""


def summarize_evaluation(evaluation: Evaluation) -> EvaluationSummary:
    """Everything that the evaluation found, model by model in its order."""
    models = evaluation.models
    return EvaluationSummary(
        models=tuple(ModelScore(s.name, s.overall, evaluation.differences.get(s.name)) for s in models),
        groups={
            "role": _groups(models, lambda model: model.roles),
            "turn": _groups(models, lambda model: model.depths),
        },
        tasks=_tasks(models),
        samples=_samples(models),
        method=_method(evaluation),
    )


def score_table(models: Sequence[ModelScore], write: IntervalFormat = interval) -> TextTable:
    """Loss, perplexity and token accuracy of each model, and its difference to the first."""
    heads = ["model", *(metric.name for metric in METRICS)]
    rows = [[name, *(score_cell(score, metric, write) for metric in METRICS)] for name, score, _ in models]
    note = ""
    if any(model.difference is not None for model in models):
        heads.append(f"loss less that of {models[0].name}")
        for row, model in zip(rows, models, strict=True):
            row.append(NOTHING if model.difference is None else interval(model.difference, "+.4f"))
        note = "Differences are over the same conversations: an interval without 0 is a real difference."
    return TextTable("Models", tuple(heads), tuple(map(tuple, rows)), note)


def group_tables(
    summary: EvaluationSummary, metrics: Sequence[ScoreMetric], write: IntervalFormat = interval
) -> list[TextTable]:
    """``metrics`` by role and by turn, the models side by side; none where nothing is grouped."""
    names = [model.name for model in summary.models]
    columns = [f"{metric.name}, {name}" for metric in metrics for name in names]
    made = []
    for kind, groups in summary.groups.items():
        rows = []
        for group, scores in groups.items():
            cells = [score_cell(scores.get(name), metric, write) for metric in metrics for name in names]
            counted = next(iter(scores.values()))  # the tokens are those of every model
            rows.append((group, *cells, f"{counted.tokens:,}", f"{counted.conversations:,}"))
        if rows:
            made.append(TextTable(f"By {kind}", (kind, *columns, "tokens", "conversations"), tuple(rows)))
    return made


def score_cell(score: Score | None, metric: ScoreMetric, write: IntervalFormat) -> str:
    """A metric with its interval; a single conversation has none."""
    if score is None:
        return NOTHING
    value = metric.of(score)
    return write(value, metric.form) if score.conversations > 1 else format(value.value, metric.form)


def _task_cell(score: TaskScore | None) -> str:
    if score is None:
        return NOTHING
    return number(score.value, ".4f") + ("" if score.stderr is None else f" ± {score.stderr:.4f}")


def _groups(models: Sequence[EvaluatedModel], of: Callable[[EvaluatedModel], dict[str, Score]]) -> Groups:
    """The open group of turns, `N+`, is last."""
    names = dict.fromkeys(name for model in models for name in of(model))
    return {
        name: {model.name: of(model)[name] for model in models if name in of(model)}
        for name in sorted(names, key=_turn)
    }


def _turn(name: str) -> tuple[bool, int]:
    digits = name.rstrip("+")
    return name.endswith("+"), int(digits) if digits.isdigit() else 0


def _tasks(models: Sequence[EvaluatedModel]) -> TextTable | None:
    by_model = [{(score.task, score.metric): score for score in model.tasks} for model in models]
    keys = dict.fromkeys(key for scores in by_model for key in scores)
    rows = tuple((*key, *(_task_cell(scores.get(key)) for scores in by_model)) for key in keys)
    heads = ("task", "metric", *(model.name for model in models))
    note = "± is the standard error."
    return TextTable("Tasks of lm-evaluation-harness", heads, rows, note) if rows else None


def _samples(models: Sequence[EvaluatedModel]) -> tuple[SampleReplies, ...]:
    """Joined by prompt and its occurrence: a prompt may be sampled several times."""
    found: dict[tuple[tuple[SampleMessage, ...], int], list[tuple[str, Sample]]] = {}
    for model in models:
        seen = Counter[tuple[SampleMessage, ...]]()
        for sample in model.samples:
            seen[sample.prompt] += 1
            found.setdefault((sample.prompt, seen[sample.prompt]), []).append((model.name, sample))
    return tuple(
        SampleReplies(prompt, same[0][1].reference, tuple((name, sample.reply) for name, sample in same))
        for (prompt, _), same in found.items()
    )


def _method(evaluation: Evaluation) -> str:
    overall = evaluation.models[0].overall
    return (
        f"{overall.tokens:,} trained tokens of {plural(overall.conversations, 'conversation')} of the split "
        f"`{evaluation.split}`; losses in nats per token. Intervals at {evaluation.confidence:.0%} "
        f"confidence: bootstrap over conversations ({evaluation.resamples:,} resamples, seed "
        f"{evaluation.seed}); with conversations of another kind, values may lie outside."
    )
