"""DDP's gradients live in the buckets that it reduces: 16 bytes a trained parameter instead of 20.

torch makes a gradient a view of its bucket when it is reduced first, and a gradient that was freed is made
anew, beside its bucket, until it is reduced again: with several micro-steps that is the whole step. So
gradients become zero instead of being freed, and two passes over one short row, before the first step, put
them where they stay: after the first one DDP may order its buckets anew.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedDataParallelKwargs

from gemfit.train.checks.selftest import probe_batch

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

PASSES = 2


def share_memory(handlers: list[Any]) -> None:
    """Ask for gradients that are views of buckets; ``handlers`` are accelerate's."""
    for handler in handlers:
        if isinstance(handler, DistributedDataParallelKwargs):
            handler.gradient_as_bucket_view = True


def settle(trainer: PackedTrainer) -> None:
    """Give each trained parameter a gradient of zero in its bucket, and keep it there. Collective."""
    model: Any = trainer.model_wrapped
    for _ in range(PASSES):
        model.zero_grad(set_to_none=True)  # or gradients would keep the buckets of before
        loss = trainer.compute_loss(model, probe_batch(trainer) | {"step_tokens": 1})
        trainer.accelerator.backward(0 * loss)
    trainer.take_step_loss()
    model.zero_grad = partial(model.zero_grad, set_to_none=False)
    model.zero_grad()
