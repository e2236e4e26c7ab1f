"""Measurements of a run: energy, GPU counters, peak memory, loss plot.

Imports schemas, `core`, `train.collective` and `train.trainer_view`, and so sees no other part of training.
"""
