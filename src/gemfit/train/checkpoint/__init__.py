"""Tensors to checkpoint and back: DCP planners, asynchronous save, engine state.

Imports `gemfit.checkpoint` (format), torch, `train.collective`, `train.thread_device`; `train.model` loads
base weights with it.
"""
