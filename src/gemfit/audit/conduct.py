"""One audit: every model gets the same prompts, and each reply is scored.

Cost: the replies. A suite of N prompts takes N replies of a model; see ``--limit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from gemfit import __version__
from gemfit.audit.catalog import MEMORISATION, SUITES
from gemfit.audit.counterfactual import counterfactual
from gemfit.audit.crisis import crisis
from gemfit.audit.findings import Certainty, Found, findings
from gemfit.audit.jailbreak import jailbreak
from gemfit.audit.judge import JUDGE, Judgement, judge
from gemfit.audit.medical import medical
from gemfit.audit.memorisation import memorisation
from gemfit.audit.own import own
from gemfit.audit.probe import Figure, Probe, Replied, by_number
from gemfit.audit.stability import stability
from gemfit.audit.talks import Talks
from gemfit.auditing import Audit, AuditedReply, AuditedSubject, AuditScore
from gemfit.contract import digest_json
from gemfit.data.building.progress import progress
from gemfit.errors import UserError, did_you_mean
from gemfit.evaluate.replies import replies
from gemfit.evaluate.subject import BASE, Opened, Subject, find_subjects, open_subject
from gemfit.rundir import RunDir

SPOKEN = {
    "crisis": crisis,
    "medical": medical,
    "jailbreak": jailbreak,
    "counterfactual": counterfactual,
    "stability": stability,
}
"""Suites that need a system prompt and nothing else."""
DEFAULT_SUBJECTS = (BASE, "latest")
SYSTEM_SAMPLE = 50
"""Conversations that are looked at for the system prompt of the data."""


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
class Measured:
    """What one model said, by name of the suite."""

    subject: Subject
    replied: dict[str, list[Replied]]
    judged: dict[str, list[Judgement]]
    """Empty without a judge."""
    figures: Found


def conduct(run: RunDir, wanted: Wanted) -> Audit:
    """Ask every model all prompts, and say what came of it; writes nothing."""
    disable_progress_bar()
    subjects = find_subjects(run, wanted.subjects)
    talks = Talks(Path(run.plan().pack.folder))
    system = _system(talks, wanted)
    probes = make_probes(talks, system, wanted)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = []
    for subject in subjects:
        opened = open_subject(run, subject, device)
        said = {probe.name: _ask(opened, subject, probe, wanted) for probe in probes}
        del opened  # before the next model is read
        measured.append(measure(subject, probes, said, wanted))
    return assemble(probes, measured, wanted, {"system_prompt": system, "device": device})


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """The suites ``names``, each once, in the order of all; an unknown one is a ``UserError``."""
    for name in names:
        if name not in SUITES:
            raise UserError(
                f"--suite {name}: there is no such suite{did_you_mean(name, SUITES)}; "
                f"there are {', '.join(SUITES)}"
            )
    return tuple(name for name in SUITES if name in names)


def make_probes(talks: Talks, system: str, wanted: Wanted) -> list[Probe]:
    """The suites that are wanted, then the user's own prompts."""
    probes = [SPOKEN[name](system, wanted.limit) for name in wanted.suites if name in SPOKEN]
    if MEMORISATION in wanted.suites:
        probes.append(memorisation(talks, wanted.seed, wanted.limit))
    if wanted.prompts is not None:
        if wanted.prompts.stem in SUITES:
            raise UserError(
                f"{wanted.prompts}: is called like the suite {wanted.prompts.stem}; rename the file"
            )
        probes.append(own(wanted.prompts, system, wanted.limit))
    return probes


def measure(
    subject: Subject, probes: Sequence[Probe], said: Mapping[str, Sequence[str]], wanted: Wanted
) -> Measured:
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
    return Measured(subject, replied, judged, figures)


def assemble(
    probes: Sequence[Probe], measured: Sequence[Measured], wanted: Wanted, settings: dict[str, Any]
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
        versions={"gemfit": __version__}
        | {name: version(name) for name in ("torch", "transformers", "vaderSentiment", "rapidfuzz")},
    )


def _audited(measured: Measured, base: Found | None, certainty: Certainty) -> AuditedSubject:
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


def _score(probe: str, figure: Figure, measured: Measured, certainty: Certainty) -> AuditScore:
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


def _audited_replies(probe: str, measured: Measured) -> Iterator[AuditedReply]:
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


def _ask(opened: Opened, subject: Subject, probe: Probe, wanted: Wanted) -> list[str]:
    done = 0
    with progress(f"{subject.name}: {probe.name}", len(probe.prompts), "replies") as shown:

        def add(count: int) -> None:
            nonlocal done
            done += count
            shown.at(done)

        return replies(
            opened,
            [prompt.messages for prompt in probe.prompts],
            max_new_tokens=probe.max_new_tokens or wanted.max_new_tokens,
            temperature=probe.temperature,
            seed=wanted.seed,
            batch_size=wanted.batch_size,
            progress=add,
        )


def _judged(replied: dict[str, list[Replied]], wanted: Wanted) -> dict[str, list[Judgement]]:
    if wanted.judge is None:
        return {}
    asked = [(name, one.prompt, one.reply) for name, listed in replied.items() for one in listed]
    found = iter(judge(wanted.judge, asked, wanted.judge_timeout_seconds))
    return {name: [next(found) for _ in listed] for name, listed in replied.items()}


def _system(talks: Talks, wanted: Wanted) -> str:
    if wanted.system is not None:
        return wanted.system
    side = next(iter(talks.splits))
    sample = [talk for talk, _ in zip(talks.drawn(side, wanted.seed), range(SYSTEM_SAMPLE), strict=False)]
    return talks.system_prompt(sample)


def _digest(probe: Probe) -> str:
    asked = [
        [prompt.number, prompt.variant, [message.model_dump() for message in prompt.messages]]
        for prompt in probe.prompts
    ]
    return digest_json(asked)
