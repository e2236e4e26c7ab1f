"""Value types of an audit: prompts, scored replies, measures, figures and suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gemfit.schemas.audit import AuditedSuite
from gemfit.schemas.evaluation import SampleMessage

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, and what the reply is scored against."""

    number: str
    """Inside its suite; equal for the members of a group."""
    variant: str = ""
    """What sets it apart inside the group."""
    messages: tuple[SampleMessage, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the scorer of the suite needs to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredReply:
    """A prompt, the reply, and its scores."""

    prompt: Prompt
    reply: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a score of a reply is."""

    name: str
    better: Better
    says: str
    """One sentence: what it measures, and what it cannot say."""
    is_share: bool = True
    """Whether the mean is a share of replies or groups, each 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A mean over independent units: prompts, or groups of prompts that belong together."""

    measure: Measure
    values: Mapping[str, float]
    """By the number of the prompt or group."""
    control: Mapping[str, float] = field(default_factory=dict)
    """Where there is one, the figure is the mean of ``values`` less that of these."""
    effect: float | None = None
    """The figure in standard deviations of the scores that it compares."""


Score = Callable[[Prompt, str], dict[str, float]]
Figures = Callable[[Sequence[ScoredReply]], list[Figure]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSuite:
    """A suite of prompts with its scorer and figures."""

    name: str
    about: AuditedSuite
    prompts: tuple[Prompt, ...]
    score: Score
    figures: Figures
    temperature: float = 0.0
    max_new_tokens: int | None = None
    """Overrides the limit of the audit."""


def means(measures: Iterable[Measure]) -> Figures:
    """The mean of each score over the prompts; a group counts once, by the mean of its members."""
    selected = tuple(measures)

    def figures(replies: Sequence[ScoredReply]) -> list[Figure]:
        return [
            Figure(measure=measure, values=values)
            for measure in selected
            if (values := by_number(replies, measure.name))
        ]

    return figures


def by_number(replies: Iterable[ScoredReply], score: str) -> dict[str, float]:
    """The mean of a score over the replies of each prompt that has it."""
    groups: dict[str, list[float]] = {}
    for one in replies:
        if score in one.scores:
            groups.setdefault(one.prompt.number, []).append(one.scores[score])
    return {number: sum(values) / len(values) for number, values in groups.items()}


def prompt_messages(text: str, system: str) -> tuple[SampleMessage, ...]:
    """A conversation of one user message, after the system prompt unless that is empty."""
    first = (SampleMessage(role="system", content=system),) if system else ()
    return (*first, SampleMessage(role="user", content=text))
