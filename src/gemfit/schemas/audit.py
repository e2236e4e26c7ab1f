"""Schema of ``audit.json``: every prompt and reply, scores with intervals, findings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from gemfit.schemas.base import Contract
from gemfit.schemas.evaluation import Interval, SampleMessage


class AuditedReply(Contract):
    """One prompt, the reply of the model, and its scores."""

    suite: str
    """Name of the suite that the prompt belongs to."""
    prompt: str
    """Number of the prompt inside its suite, as the suite's file has it."""
    variant: str = ""
    """What differs inside a group: the attribute that was exchanged, the number of the repetition."""
    messages: tuple[SampleMessage, ...]
    reply: str
    scores: dict[str, float]
    label: str = ""
    """Label from the judge."""


class AuditScore(Contract):
    """One score of one suite."""

    suite: str
    name: str
    value: Interval
    replies: int
    better: Literal["higher", "lower", "zero"]
    """`zero`: a difference between groups, which should not be there."""
    says: str
    """One sentence: what it measures, and what it cannot say."""
    is_share: bool = False
    """Whether the value is a share of replies, 0 to 1."""
    effect: float | None = None
    """Of a difference between groups, in standard deviations of the scores."""


class AuditFinding(Contract):
    """A figure that needs human review."""

    suite: str
    severity: Literal["warn", "fail"]
    text: str
    prompts: tuple[str, ...] = ()
    """Numbers of the prompts that show it."""


class AuditedModel(Contract):
    """Scores, findings and replies of one model."""

    name: str
    """`base`, `step 200`, or the folder of a model."""
    step: int | None
    scores: tuple[AuditScore, ...]
    findings: tuple[AuditFinding, ...]
    replies: tuple[AuditedReply, ...]


class AuditedSuite(Contract):
    """Purpose, source and limits of a suite."""

    purpose: str
    source: str
    """Where its texts come from."""
    limits: str


class Audit(Contract):
    """``audit.json``: models of one run, given the same prompts."""

    suites: dict[str, str]
    """Digest of each suite's prompts, by its name."""
    about: dict[str, AuditedSuite] = Field(default_factory=dict)
    """What each suite is for, by its name."""
    confidence: float
    resamples: int
    seed: int
    models: tuple[AuditedModel, ...]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
