"""Learning rate of a step by the schedule of a recipe, as transformers' schedulers compute it."""

from __future__ import annotations

import math

from gemfit.schemas.plan import Plan


def learning_rate(plan: Plan, step: int) -> float:
    """The learning rate of optimizer step number ``step``, which counts from 1."""
    optim, done = plan.recipe.optim, step - 1
    if done < optim.warmup_steps:
        return optim.learning_rate * done / optim.warmup_steps
    progress = min(1.0, (done - optim.warmup_steps) / max(1, plan.steps.total - optim.warmup_steps))
    match optim.schedule:
        case "linear":
            return optim.learning_rate * (1 - progress)
        case "cosine":
            return optim.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        case "constant_with_warmup":
            return optim.learning_rate


def describe_rate_change(old: Plan, new: Plan, done: int) -> list[str]:
    """The rates before and after a resume at step ``done`` that changes the schedule; empty if it does not.

    A run that is made longer after its end goes back to a larger rate.
    """
    if done == 0 or (old.recipe.optim, old.steps.total) == (new.recipe.optim, new.steps.total):
        return []
    was, now = learning_rate(old, done), learning_rate(new, done + 1)
    return [f"learning rate: step {done} took {was:.3g}, step {done + 1} takes {now:.3g}"]
