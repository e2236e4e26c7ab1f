"""What an evaluation found: each figure with its interval, for every model that was measured."""

from __future__ import annotations

from pydantic import Field, JsonValue

from gemfit.schemas.base import Contract


class Interval(Contract):
    """A figure, and the interval that it lies in with the confidence that its report states."""

    value: float
    low: float
    high: float


class SampleMessage(Contract):
    """One message of a conversation."""

    role: str
    content: str


class Score(Contract):
    """How well a model foretells some of the trained tokens."""

    loss: Interval
    """Mean cross-entropy, in nats per token."""
    perplexity: Interval
    token_accuracy: Interval
    """Share of tokens that were the most likely one, 0 to 1."""
    tokens: int
    conversations: int


class Sample(Contract):
    """What a model says where a held-out conversation goes on."""

    prompt: tuple[SampleMessage, ...]
    reference: str
    """What the conversation says there."""
    reply: str


class TaskScore(Contract):
    """One metric of one task of lm-evaluation-harness."""

    task: str
    metric: str
    value: float
    stderr: float | None = None


class SubjectScores(Contract):
    """All figures of one model."""

    name: str
    """`base`, `step 200`, or the folder of a model."""
    step: int | None
    """Of a checkpoint of the run."""
    overall: Score
    roles: dict[str, Score]
    """By the role that speaks."""
    depths: dict[str, Score]
    """By the number of the speaker's turn in its conversation: `1`, `2`, … and the last as `N+`."""
    samples: tuple[Sample, ...] = ()
    tasks: tuple[TaskScore, ...] = ()


class ConversationLosses(Contract):
    """``conversations.json``: what each held-out conversation gave, for comparing with later subjects."""

    documents: tuple[int, ...]
    """Numbers of the conversations in the pack."""
    tokens: tuple[int, ...]
    """Trained tokens of each."""
    losses: dict[str, tuple[float, ...]]
    """By subject: the sum over these tokens, in nats."""


class Evaluation(Contract):
    """``evaluation.json``: models of one run, on the same held-out conversations."""

    pack: str
    """Fingerprint of the pack."""
    split: str
    confidence: float
    """Of the intervals, 0 to 1: bootstrap over conversations."""
    resamples: int
    seed: int
    world_size: int
    subjects: tuple[SubjectScores, ...]
    differences: dict[str, Interval] = Field(default_factory=dict)
    """Loss of each subject less that of the first, in nats per token, over the same conversations."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the samples and tasks: temperature, longest reply, and so on."""
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
