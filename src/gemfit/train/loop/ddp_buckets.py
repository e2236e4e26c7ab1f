"""Less memory and communication under DDP: gradients are views of the all-reduce buckets, buffers not sent.

Gradients as views (``gradient_as_bucket_view``) cost 16 bytes per trained parameter instead of 20. torch
makes a gradient a view of its bucket when it is first reduced, and allocates a freed gradient anew, outside
its bucket, until it is reduced again: with several gradient accumulation steps that is the whole step. So
gradients are zeroed instead of freed, and two passes over one short row, before the first step, put them into
the buckets: after the first pass DDP reorders its buckets, and with them the sums of gradients. So a resumed
run, too, has the final order from its first step, and rounds as one that never stopped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from accelerate.utils import DistributedDataParallelKwargs

from gemfit.train.data.probe_rows import probe_batch
from gemfit.train.trainer_view import TrainerView

PASSES = 2


def use_bucket_views(handlers: list[Any]) -> None:
    """Request gradients that are views of buckets; ``handlers`` are accelerate's."""
    for handler in handlers:
        if isinstance(handler, DistributedDataParallelKwargs):
            handler.gradient_as_bucket_view = True


def send_no_buffers(model: Any) -> None:
    """Let ``model``, a ``DistributedDataParallel``, send no buffers: every rank has computed the same ones.

    By default rank 0 sends them in each forward pass, in evaluation too.
    """
    model.broadcast_buffers = False  # torch 2.13 calls it forward_sync_buffers, and knows the old name


def allocate_gradients(trainer: TrainerView) -> None:
    """Create a zero gradient of each trained parameter in its bucket, never freed again. Collective."""
    model: Any = trainer.model_wrapped
    for _ in range(PASSES):
        model.zero_grad(set_to_none=True)  # or gradients would hold the previous buckets
        loss = trainer.compute_loss(model, probe_batch(trainer) | {"step_tokens": 1})
        trainer.accelerator.backward(0 * loss)
    trainer.take_step_loss()
    model.zero_grad = partial(model.zero_grad, set_to_none=False)
    model.zero_grad()
