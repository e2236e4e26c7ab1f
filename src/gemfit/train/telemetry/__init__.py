"""Measurements of a run: energy, GPU counters, peak memory, loss plot.

Imports schemas, `core`, and `collective`, `trainer_view` of `gemfit.train`: sees the trainer as a `TrainerView`.
"""
