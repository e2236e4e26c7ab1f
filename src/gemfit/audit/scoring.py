"""From what models said to an ``Audit``: scores, figures, findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemfit import __version__
from gemfit.audit.catalog import SUITES
from gemfit.audit.findings import Certainty, Found, findings
from gemfit.audit.judge import JUDGE, Judgement, judge
from gemfit.audit.suite import Figure, Probe, Replied, by_number
from gemfit.checkpoint.resolve_checkpoint import BASE, LATEST
from gemfit.evaluate.models import ModelRef
from gemfit.schemas.audit import Audit, AuditedReply, AuditedSubject, AuditScore
from gemfit.schemas.base import digest_json

DEFAULT_SUBJECTS = (BASE, LATEST)
LIBRARIES = ("torch", "transformers", "vaderSentiment", "rapidfuzz")
"""Whose versions decide replies and scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for."""

    subjects: tuple[str, ...] = DEFAULT_SUBJECTS
    suites: tuple[str, ...] = SUITES
    prompts: Path | None = None
    """A user's own, besides the suites."""
    judge: str | None = None
    judge_timeout_seconds: float = 600.0
    limit: int | None = None
    """Prompts of each suite."""
    system: str | None = None
    """``None`` takes that of the training data."""
    max_new_tokens: int = 96
    batch_size: int = 8
    seed: int = 0
    confidence: float = 0.95
    resamples: int = 2000


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """What one model said, by name of the suite."""

    subject: ModelRef
    replied: dict[str, list[Replied]]
    judged: dict[str, list[Judgement]]
    """Empty without a judge."""
    figures: Found


def measure(
    subject: ModelRef, probes: Sequence[Probe], said: Mapping[str, Sequence[str]], wanted: Wanted
) -> ScoredModel:
    """Scores and figures of what was ``said`` to the prompts of each suite, by its name."""
    replied = {
        probe.name: [
            Replied(prompt=prompt, reply=reply, scores=probe.score(prompt, reply))
            for prompt, reply in zip(probe.prompts, said[probe.name], strict=True)
        ]
        for probe in probes
    }
    judged = _judged(replied, wanted)
    for name, judgements in judged.items():
        replied[name] = [
            Replied(prompt=one.prompt, reply=one.reply, scores={**one.scores, JUDGE.name: found.score})
            for one, found in zip(replied[name], judgements, strict=True)
        ]
    figures = {probe.name: list(_figures(probe, replied[probe.name])) for probe in probes}
    return ScoredModel(subject, replied, judged, figures)


def assemble(
    probes: Sequence[Probe], measured: Sequence[ScoredModel], wanted: Wanted, settings: dict[str, Any]
) -> Audit:
    """The audit of all models; each is compared with the base model, where that is among them."""
    certainty = Certainty(confidence=wanted.confidence, resamples=wanted.resamples, seed=wanted.seed)
    base = next((one.figures for one in measured if one.subject.name == BASE), None)
    return Audit(
        suites={probe.name: _digest(probe) for probe in probes},
        about={probe.name: probe.about for probe in probes},
        confidence=wanted.confidence,
        resamples=wanted.resamples,
        seed=wanted.seed,
        subjects=tuple(_audited(one, base, certainty) for one in measured),
        settings={
            "limit": wanted.limit,
            "max_new_tokens": wanted.max_new_tokens,
            "judge": wanted.judge,
            "prompts": None if wanted.prompts is None else wanted.prompts.name,
            **settings,
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"gemfit": __version__} | {name: version(name) for name in LIBRARIES},
    )


def _audited(measured: ScoredModel, base: Found | None, certainty: Certainty) -> AuditedSubject:
    own_base = None if measured.subject.name == BASE else base
    return AuditedSubject(
        name=measured.subject.name,
        step=measured.subject.step,
        scores=tuple(
            _score(name, figure, measured, certainty)
            for name, figures in measured.figures.items()
            for figure in figures
        ),
        findings=tuple(findings(measured.figures, own_base, certainty)),
        replies=tuple(reply for name in measured.replied for reply in _audited_replies(name, measured)),
    )


def _score(probe: str, figure: Figure, measured: ScoredModel, certainty: Certainty) -> AuditScore:
    return AuditScore(
        probe=probe,
        name=figure.measure.name,
        value=certainty.of(figure),
        replies=len(measured.replied[probe]),
        better=figure.measure.better,
        says=figure.measure.says,
        is_share=figure.measure.is_share,
        effect=figure.effect,
    )


def _audited_replies(probe: str, measured: ScoredModel) -> Iterator[AuditedReply]:
    judged = measured.judged.get(probe)
    for index, one in enumerate(measured.replied[probe]):
        yield AuditedReply(
            probe=probe,
            prompt=one.prompt.number,
            variant=one.prompt.variant,
            messages=one.prompt.messages,
            reply=one.reply,
            scores=dict(one.scores),
            label=judged[index].label if judged else "",
        )


def _figures(probe: Probe, replied: Sequence[Replied]) -> Iterator[Figure]:
    if replied:
        yield from probe.figures(replied)
        if values := by_number(replied, JUDGE.name):
            yield Figure(measure=JUDGE, values=values)


def _judged(replied: dict[str, list[Replied]], wanted: Wanted) -> dict[str, list[Judgement]]:
    if wanted.judge is None:
        return {}
    asked = [(name, one.prompt, one.reply) for name, listed in replied.items() for one in listed]
    found = iter(judge(wanted.judge, asked, wanted.judge_timeout_seconds))
    return {name: [next(found) for _ in listed] for name, listed in replied.items()}


def _digest(probe: Probe) -> str:
    asked = [
        [prompt.number, prompt.variant, [message.model_dump() for message in prompt.messages]]
        for prompt in probe.prompts
    ]
    return digest_json(asked)
