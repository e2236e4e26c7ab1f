"""Schema of ``evaluation.json``: scores with intervals of every evaluated model."""

from __future__ import annotations

from pydantic import Field, JsonValue

from gemfit.schemas.base import Contract


class Interval(Contract):
    """A value with its confidence interval, at the confidence that the report states."""

    value: float
    low: float
    high: float


class SampleMessage(Contract):
    """One message of a conversation."""

    role: str
    content: str


class Score(Contract):
    """Next-token metrics on trained tokens."""

    loss: Interval
    """Mean cross-entropy, in nats per token."""
    perplexity: Interval
    token_accuracy: Interval
    """Share of tokens that were the argmax, 0 to 1."""
    tokens: int
    conversations: int


class Sample(Contract):
    """The reply of a model to a prompt of the validation split, with the reference."""

    prompt: tuple[SampleMessage, ...]
    reference: str
    """The message of the conversation."""
    reply: str


class TaskScore(Contract):
    """One metric of one task of lm-evaluation-harness."""

    task: str
    metric: str
    value: float
    stderr: float | None = None


class EvaluatedModel(Contract):
    """All results of one model."""

    name: str
    """`base`, `step 200`, or the folder of a model."""
    step: int | None
    """Of a checkpoint of the run."""
    overall: Score
    roles: dict[str, Score]
    """By role."""
    depths: dict[str, Score]
    """By turn index of the role in its conversation: `1`, `2`, … and the last as `N+`."""
    samples: tuple[Sample, ...] = ()
    tasks: tuple[TaskScore, ...] = ()
    attention: str = ""
    """With which the losses were computed."""


class ConversationLosses(Contract):
    """``conversations.json``: losses per conversation of the split, for paired comparison."""

    documents: tuple[int, ...]
    """Numbers of the conversations in the pack."""
    tokens: tuple[int, ...]
    """Trained tokens of each."""
    losses: dict[str, tuple[float, ...]]
    """By model: the sum over these tokens, in nats."""


class Evaluation(Contract):
    """``evaluation.json``: models of one run, on the same conversations."""

    pack: str
    """Fingerprint of the pack."""
    split: str
    confidence: float
    """Of the intervals, 0 to 1: bootstrap over conversations."""
    resamples: int
    seed: int
    world_size: int
    models: tuple[EvaluatedModel, ...]
    differences: dict[str, Interval] = Field(default_factory=dict)
    """Loss of each model less that of the first, in nats per token, over the same conversations."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the samples and tasks: temperature, longest reply, and so on."""
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
