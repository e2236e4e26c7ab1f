"""Scores with intervals from the sums of turns: overall, by role, by turn index, and paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemfit.evaluate.bootstrap import bootstrap_interval
from gemfit.evaluate.validation import Floats, TurnSums
from gemfit.schemas.evaluation import ConversationLosses, Interval, Score

ROLES = ("system", "user", "assistant", "tool")
DEEPEST = 8
"""Turns from this one on are one group."""
HIGHEST_LOSS = 700.0
"""exp of more than 709 does not fit into a float."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """Settings of the bootstrap."""

    confidence: float
    resamples: int
    seed: int

    def interval(self, sums: Floats, weights: Floats) -> Interval:
        """Of the ratio of sums, over conversations."""
        return bootstrap_interval(
            sums, weights, resamples=self.resamples, confidence=self.confidence, seed=self.seed
        )


def score(sums: TurnSums, resampling: Resampling) -> Score:
    """Loss, perplexity and token accuracy over the tokens of these turns."""
    documents, loss, hits, tokens = by_document(sums)
    mean = resampling.interval(loss, tokens)
    # A percentile keeps its place under a monotone function.
    ends = {name: math.exp(min(getattr(mean, name), HIGHEST_LOSS)) for name in ("value", "low", "high")}
    return Score(
        loss=mean,
        perplexity=Interval(**ends),
        token_accuracy=resampling.interval(hits, tokens),
        tokens=round(tokens.sum()),
        conversations=len(documents),
    )


def role_scores(sums: TurnSums, resampling: Resampling) -> dict[str, Score]:
    """By role, in the order in which a conversation begins."""
    present = set(sums.role[sums.turn > 0].tolist())
    roles = [role for role in ROLES if role in present]
    return {role: score(sums.only((sums.role == role) & (sums.turn > 0)), resampling) for role in roles}


def depth_scores(sums: TurnSums, resampling: Resampling) -> dict[str, Score]:
    """By turn index of the role; system messages are left out."""
    depth = np.where(sums.role == "system", 0, np.minimum(sums.turn, DEEPEST))
    found = {int(number): sums.only(depth == number) for number in np.unique(depth[depth > 0])}
    return {f"{n}+" if n == DEEPEST else str(n): score(part, resampling) for n, part in found.items()}


def by_document(sums: TurnSums) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Conversations, and the sums of loss, hits and tokens of each: (conversations,) all."""
    documents, of = np.unique(sums.document, return_inverse=True)
    loss, hits, tokens = (
        np.bincount(of, weights, len(documents)).astype(np.float64)
        for weights in (sums.loss, sums.hits, sums.tokens)
    )
    return documents, loss, hits, tokens


def differences(losses: ConversationLosses, first: str, resampling: Resampling) -> dict[str, Interval]:
    """Loss of each model less that of ``first``, per token, by a paired bootstrap over conversations."""
    tokens = np.array(losses.tokens, np.float64)
    base = np.array(losses.losses[first])
    return {
        name: resampling.interval(np.array(losses_of_model) - base, tokens)
        for name, losses_of_model in losses.losses.items()
        if name != first
    }
