"""Summary of an audit: findings, scores of all models side by side, and every prompt with its replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gemfit.schemas.audit import Audit, AuditedReply, AuditedSubject, AuditedSuite, AuditFinding, AuditScore
from gemfit.schemas.evaluation import Message
from gemfit.summary.format import NOTHING, interval, listed, plural
from gemfit.summary.text_table import TextTable

DIFFERENCE = "zero"
"""``better`` of a difference between groups of people."""


class ModelFinding(NamedTuple):
    """A finding, and the model that it is about."""

    model: str
    finding: AuditFinding

    def text(self, most_prompts: int | None = None) -> str:
        """Suite, finding and the prompts that show it."""
        prompts = self.finding.prompts[:most_prompts]
        more = len(self.finding.prompts) - len(prompts)
        where = f" (prompts {', '.join(prompts)}{f' and {more} more' if more else ''})" if prompts else ""
        return f"{self.finding.probe}: {self.finding.text}{where}"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score of a suite, for every model."""

    name: str
    better: str
    scores: tuple[AuditScore | None, ...]
    is_largest: bool = False
    """Whether it stands for the differences of all groups, each model with its largest."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The score of each model with its interval."""
        return tuple(
            NOTHING
            if score is None
            else f"{score_text(score)}: {group_of(score)}"
            if self.is_largest
            else score_text(score)
            for score in self.scores
        )

    @property
    def replies(self) -> str:
        """Number of replies that the score was made from."""
        return f"{max(score.replies for score in self.scores if score is not None):,}"


@dataclass(frozen=True, slots=True)
class PromptReplies:
    """One prompt of a suite, and the reply of each model."""

    prompt: str
    variant: str
    messages: tuple[Message, ...]
    replies: tuple[tuple[str, AuditedReply], ...]
    """Model and reply."""


@dataclass(frozen=True, slots=True)
class SuiteSummary:
    """Scores and replies of one suite."""

    name: str
    about: AuditedSuite | None
    scores: tuple[ScoreRow, ...]
    meanings: tuple[tuple[str, str], ...]
    """What is measured, and the sentence on what it can and cannot say."""
    prompts: tuple[PromptReplies, ...]

    @property
    def short_scores(self) -> tuple[ScoreRow, ...]:
        """Scores with one row for all differences of a kind: the largest of each model."""
        plain = [row for row in self.scores if row.better != DIFFERENCE]
        apart = [row for row in self.scores if row.better == DIFFERENCE]
        kinds = dict.fromkeys(kind_of(row.name, row.better) for row in apart)
        return (*plain, *(_largest(kind, apart) for kind in kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """What there is to show of an audit."""

    models: tuple[str, ...]
    findings: tuple[ModelFinding, ...]
    """Those of severity `fail` first."""
    suites: tuple[SuiteSummary, ...]
    method: str


def summarize_audit(audit: Audit) -> AuditSummary:
    """Everything that the audit found, model by model in its order."""
    subjects = audit.subjects
    findings = [ModelFinding(subject.name, one) for subject in subjects for one in subject.findings]
    scored = (score.probe for subject in subjects for score in subject.scores)
    asked = (reply.probe for subject in subjects for reply in subject.replies)
    return AuditSummary(
        models=tuple(subject.name for subject in subjects),
        findings=tuple(sorted(findings, key=lambda one: one.finding.severity != "fail")),
        suites=tuple(_suite(audit, name) for name in dict.fromkeys([*audit.suites, *scored, *asked])),
        method=_method(audit),
    )


def suite_table(summary: AuditSummary, suite: SuiteSummary) -> TextTable:
    """Every score of a suite, the models side by side."""
    rows = tuple((row.name, *row.cells, row.better, row.replies) for row in suite.scores)
    return TextTable(f"Scores: {suite.name}", ("score", *summary.models, "better", "replies"), rows)


def overview_table(summary: AuditSummary) -> TextTable:
    """Scores of all suites; of differences between groups only the largest of each kind."""
    rows = tuple(
        (suite.name, row.name, *row.cells, row.better, row.replies)
        for suite in summary.suites
        for row in suite.short_scores
    )
    return TextTable("Scores", ("suite", "score", *summary.models, "better", "replies"), rows)


def score_text(score: AuditScore) -> str:
    """Value and interval: a share in percent, a difference with its sign and effect size."""
    form = ".1%" if score.is_share else "+.3g" if score.better == DIFFERENCE else ".3g"
    return interval(score.value, form) + ("" if score.effect is None else f", {score.effect:+.2f} SD")


def kind_of(name: str, better: str) -> str:
    """What a score measures, without the group that it is measured of."""
    return name.partition(", ")[0] if better == DIFFERENCE else name


def group_of(score: AuditScore) -> str:
    """The group of people that a difference is about."""
    return score.name.partition(", ")[2]


def _suite(audit: Audit, name: str) -> SuiteSummary:
    by_model = [{s.name: s for s in subject.scores if s.probe == name} for subject in audit.subjects]
    first = {key: score for scores in reversed(by_model) for key, score in scores.items()}
    names = dict.fromkeys(key for scores in by_model for key in scores)
    meanings: dict[str, dict[str, None]] = {}
    for key in names:
        meanings.setdefault(first[key].says, {})[kind_of(key, first[key].better)] = None
    return SuiteSummary(
        name=name,
        about=audit.about.get(name),
        scores=tuple(
            ScoreRow(k, first[k].better, tuple(scores.get(k) for scores in by_model)) for k in names
        ),
        meanings=tuple((", ".join(kinds), sentence) for sentence, kinds in meanings.items()),
        prompts=_prompts(name, audit.subjects),
    )


def _largest(kind: str, rows: Sequence[ScoreRow]) -> ScoreRow:
    own = [row.scores for row in rows if kind_of(row.name, row.better) == kind]
    largest = tuple(
        max((score for score in scores if score is not None), key=lambda s: abs(s.value.value), default=None)
        for scores in zip(*own, strict=True)
    )
    return ScoreRow(f"{kind}, largest difference", DIFFERENCE, largest, is_largest=True)


def _prompts(suite: str, subjects: Sequence[AuditedSubject]) -> tuple[PromptReplies, ...]:
    asked: dict[tuple[str, str], list[tuple[str, AuditedReply]]] = {}
    for subject in subjects:
        for reply in subject.replies:
            if reply.probe == suite:
                asked.setdefault((reply.prompt, reply.variant), []).append((subject.name, reply))
    return tuple(
        PromptReplies(prompt, variant, replies[0][1].messages, tuple(replies))
        for (prompt, variant), replies in asked.items()
    )


def _method(audit: Audit) -> str:
    replies = sum(len(subject.replies) for subject in audit.subjects)
    return (
        f"{replies:,} {'reply' if replies == 1 else 'replies'} of {listed([s.name for s in audit.subjects])} "
        f"to the prompts of {plural(len(audit.suites), 'suite')}. Intervals at {audit.confidence:.0%} "
        f"confidence: Wilson's and Newcombe's formulas for shares, else bootstrap over prompts "
        f"({audit.resamples:,} resamples, seed {audit.seed}). Scores are made from word lists, counts and a "
        "sentiment lexicon, in English: they show where to look, and are not a proof of safety."
    )
