"""Score the replies of all models and assemble the ``Audit``: scores, figures, findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemfit import __version__
from gemfit.audit.catalog import SUITES
from gemfit.audit.findings import IntervalSettings, SuiteFigures, findings
from gemfit.audit.judge import JUDGE, Judgement, judge
from gemfit.audit.suite import Figure, PromptSuite, ScoredReply, by_number
from gemfit.checkpoint.resolve_checkpoint import BASE, LATEST
from gemfit.evaluate.models import ModelRef
from gemfit.schemas.audit import Audit, AuditedModel, AuditedReply, AuditScore
from gemfit.schemas.base import digest_json

DEFAULT_CHECKPOINTS = (BASE, LATEST)
LIBRARIES = ("torch", "transformers", "vaderSentiment", "rapidfuzz", "scipy")
"""Whose versions decide replies, scores and intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Options of an audit."""

    checkpoints: tuple[str, ...] = DEFAULT_CHECKPOINTS
    suites: tuple[str, ...] = SUITES
    prompts: Path | None = None
    """JSON lines with the user's custom prompts, besides the suites."""
    judge: str | None = None
    judge_timeout_seconds: float = 600.0
    limit: int | None = None
    """Prompts of each suite."""
    system: str | None = None
    """System prompt; ``None`` takes that of the training data."""
    max_new_tokens: int = 96
    batch_size: int = 8
    seed: int = 0
    confidence: float = 0.95
    resamples: int = 2000


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """Scored replies of one model, by name of the suite."""

    ref: ModelRef
    replies: dict[str, list[ScoredReply]]
    judgements: dict[str, list[Judgement]]
    """Empty without a judge."""
    figures: SuiteFigures


def score_model(
    ref: ModelRef,
    suites: Sequence[PromptSuite],
    texts: Mapping[str, Sequence[str]],
    settings: AuditSettings,
) -> ScoredModel:
    """Scores and figures of the replies ``texts`` to the prompts of each suite, by its name."""
    replies = {
        suite.name: [
            ScoredReply(prompt=prompt, reply=reply, scores=suite.score(prompt, reply))
            for prompt, reply in zip(suite.prompts, texts[suite.name], strict=True)
        ]
        for suite in suites
    }
    judgements = _judge(replies, settings)
    for name, judged in judgements.items():
        replies[name] = [
            ScoredReply(
                prompt=one.prompt, reply=one.reply, scores={**one.scores, JUDGE.name: judgement.score}
            )
            for one, judgement in zip(replies[name], judged, strict=True)
        ]
    figures = {suite.name: list(_figures(suite, replies[suite.name])) for suite in suites}
    return ScoredModel(ref, replies, judgements, figures)


def assemble(
    suites: Sequence[PromptSuite],
    models: Sequence[ScoredModel],
    settings: AuditSettings,
    recorded: dict[str, Any],
) -> Audit:
    """The audit of all models; each is compared with the base model, where that is among them.

    ``recorded`` joins the settings that the file keeps.
    """
    intervals = IntervalSettings(
        confidence=settings.confidence, resamples=settings.resamples, seed=settings.seed
    )
    base = next((model.figures for model in models if model.ref.name == BASE), None)
    return Audit(
        suites={suite.name: _digest(suite) for suite in suites},
        about={suite.name: suite.about for suite in suites},
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
        models=tuple(_audited(model, base, intervals) for model in models),
        settings={
            "limit": settings.limit,
            "max_new_tokens": settings.max_new_tokens,
            "judge": settings.judge,
            "prompts": None if settings.prompts is None else settings.prompts.name,
            **recorded,
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"gemfit": __version__} | {name: version(name) for name in LIBRARIES},
    )


def _audited(model: ScoredModel, base: SuiteFigures | None, intervals: IntervalSettings) -> AuditedModel:
    compared = None if model.ref.name == BASE else base
    return AuditedModel(
        name=model.ref.name,
        step=model.ref.step,
        scores=tuple(
            _score(name, figure, model, intervals)
            for name, figures in model.figures.items()
            for figure in figures
        ),
        findings=tuple(findings(model.figures, compared, intervals)),
        replies=tuple(reply for name in model.replies for reply in _audited_replies(name, model)),
    )


def _score(suite: str, figure: Figure, model: ScoredModel, intervals: IntervalSettings) -> AuditScore:
    return AuditScore(
        suite=suite,
        name=figure.measure.name,
        value=intervals.interval(figure),
        replies=len(model.replies[suite]),
        better=figure.measure.better,
        says=figure.measure.says,
        is_share=figure.measure.is_share,
        effect=figure.effect,
    )


def _audited_replies(suite: str, model: ScoredModel) -> Iterator[AuditedReply]:
    judged = model.judgements.get(suite)
    for index, one in enumerate(model.replies[suite]):
        yield AuditedReply(
            suite=suite,
            prompt=one.prompt.number,
            variant=one.prompt.variant,
            messages=one.prompt.messages,
            reply=one.reply,
            scores=dict(one.scores),
            label=judged[index].label if judged else "",
        )


def _figures(suite: PromptSuite, replies: Sequence[ScoredReply]) -> Iterator[Figure]:
    if replies:
        yield from suite.figures(replies)
        if values := by_number(replies, JUDGE.name):
            yield Figure(measure=JUDGE, values=values)


def _judge(replies: dict[str, list[ScoredReply]], settings: AuditSettings) -> dict[str, list[Judgement]]:
    if settings.judge is None:
        return {}
    inputs = [(name, one.prompt, one.reply) for name, listed in replies.items() for one in listed]
    found = iter(judge(settings.judge, inputs, settings.judge_timeout_seconds))
    return {name: [next(found) for _ in listed] for name, listed in replies.items()}


def _digest(suite: PromptSuite) -> str:
    prompts = [
        [prompt.number, prompt.variant, [message.model_dump() for message in prompt.messages]]
        for prompt in suite.prompts
    ]
    return digest_json(prompts)
