"""Summary of an audit: findings, scores of all models side by side, and every prompt with its replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gemfit.schemas.audit import Audit, AuditedModel, AuditedReply, AuditedSuite, AuditFinding, AuditScore
from gemfit.schemas.evaluation import SampleMessage
from gemfit.summary.format import NOTHING, interval, listed, plural
from gemfit.summary.text_table import TextTable

DIFFERENCE = "zero"
"""``better`` of a difference between groups of people."""
LARGEST = ", largest difference"
Scores = dict[str, dict[str, AuditScore]]
"""By name of the score and name of the model."""


class ModelFinding(NamedTuple):
    """A finding, and the model that it is about."""

    model: str
    finding: AuditFinding

    def text(self, most_prompts: int | None = None) -> str:
        """Suite, finding and the prompts that show it."""
        prompts = self.finding.prompts[:most_prompts]
        more = len(self.finding.prompts) - len(prompts)
        where = f" (prompts {', '.join(prompts)}{f' and {more} more' if more else ''})" if prompts else ""
        return f"{self.finding.suite}: {self.finding.text}{where}"


@dataclass(frozen=True, slots=True)
class PromptReplies:
    """One prompt of a suite, and the reply of each model."""

    prompt: str
    variant: str
    messages: tuple[SampleMessage, ...]
    replies: tuple[tuple[str, AuditedReply], ...]
    """Model and reply."""


@dataclass(frozen=True, slots=True)
class SuiteSummary:
    """Scores and replies of one suite."""

    name: str
    about: AuditedSuite | None
    scores: Scores
    meanings: tuple[tuple[str, str], ...]
    """What is measured, and the sentence on what it can and cannot say."""
    prompts: tuple[PromptReplies, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """Values to show of an audit."""

    models: tuple[str, ...]
    findings: tuple[ModelFinding, ...]
    """Those of severity `fail` first."""
    suites: tuple[SuiteSummary, ...]
    method: str


def summarize_audit(audit: Audit) -> AuditSummary:
    """Everything that the audit found, model by model in its order."""
    models = audit.models
    findings = [ModelFinding(model.name, one) for model in models for one in model.findings]
    scored = (score.suite for model in models for score in model.scores)
    replied = (reply.suite for model in models for reply in model.replies)
    return AuditSummary(
        models=tuple(model.name for model in models),
        findings=tuple(sorted(findings, key=lambda one: one.finding.severity != "fail")),
        suites=tuple(_suite(audit, name) for name in dict.fromkeys([*audit.suites, *scored, *replied])),
        method=_method(audit),
    )


def suite_table(summary: AuditSummary, suite: SuiteSummary) -> TextTable:
    """Every score of a suite, the models side by side."""
    heads = ("score", *summary.models, "better", "replies")
    return TextTable(f"Scores: {suite.name}", heads, tuple(_rows(summary.models, suite.scores)))


def overview_table(summary: AuditSummary) -> TextTable:
    """Scores of all suites; of differences between groups only the largest of each kind."""
    rows = tuple(
        (suite.name, *row) for suite in summary.suites for row in _rows(summary.models, largest(suite.scores))
    )
    return TextTable("Scores", ("suite", "score", *summary.models, "better", "replies"), rows)


def largest(scores: Scores) -> Scores:
    """The scores, with the largest of the differences of each kind in place of all."""
    made: Scores = {}
    for name, by_model in scores.items():
        for model, score in by_model.items():
            kind = kind_of(score)
            own = made.setdefault(name if kind == name else f"{kind}{LARGEST}", {})
            if model not in own or abs(score.value.value) > abs(own[model].value.value):
                own[model] = score
    return made


def _rows(models: Sequence[str], scores: Scores) -> Iterator[tuple[str, ...]]:
    for name, by_model in scores.items():
        first = next(iter(by_model.values()))
        cells = [score_text(by_model[model]) if model in by_model else NOTHING for model in models]
        if name.endswith(LARGEST):
            groups = [by_model[m].name.partition(", ")[2] if m in by_model else "" for m in models]
            cells = [f"{cell}: {group}" if group else cell for cell, group in zip(cells, groups, strict=True)]
        yield (name, *cells, first.better, f"{first.replies:,}")


def score_text(score: AuditScore) -> str:
    """Value and interval: a share in percent, a difference with its sign and effect size."""
    sign = "+" if score.better == DIFFERENCE else ""
    form = ".1%" if score.is_share else ".3g"
    return interval(score.value, sign + form) + ("" if score.effect is None else f", {score.effect:+.2f} SD")


def kind_of(score: AuditScore) -> str:
    """What a score measures, without the group of people that a difference is about."""
    return score.name.partition(", ")[0] if score.better == DIFFERENCE else score.name


def _suite(audit: Audit, name: str) -> SuiteSummary:
    scores: Scores = {}
    meanings: dict[str, dict[str, None]] = {}
    for model in audit.models:
        for score in model.scores:
            if score.suite == name:
                scores.setdefault(score.name, {})[model.name] = score
                meanings.setdefault(score.says, {})[kind_of(score)] = None
    return SuiteSummary(
        name=name,
        about=audit.about.get(name),
        scores=scores,
        meanings=tuple((", ".join(kinds), sentence) for sentence, kinds in meanings.items()),
        prompts=_prompts(name, audit.models),
    )


def _prompts(suite: str, models: Sequence[AuditedModel]) -> tuple[PromptReplies, ...]:
    by_prompt: dict[tuple[str, str], list[tuple[str, AuditedReply]]] = {}
    for model in models:
        for reply in model.replies:
            if reply.suite == suite:
                by_prompt.setdefault((reply.prompt, reply.variant), []).append((model.name, reply))
    return tuple(
        PromptReplies(prompt, variant, replies[0][1].messages, tuple(replies))
        for (prompt, variant), replies in by_prompt.items()
    )


def _method(audit: Audit) -> str:
    replies = sum(len(model.replies) for model in audit.models)
    return (
        f"{replies:,} {'reply' if replies == 1 else 'replies'} of {listed([s.name for s in audit.models])} "
        f"to the prompts of {plural(len(audit.suites), 'suite')}. Intervals at {audit.confidence:.0%} "
        f"confidence: Wilson's and Newcombe's formulas for shares, else bootstrap over prompts "
        f"({audit.resamples:,} resamples, seed {audit.seed}). Scores are made from word lists, counts and a "
        "sentiment lexicon, in English: they show where to look, and are not a proof of safety."
    )
