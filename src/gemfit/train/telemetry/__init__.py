"""Measurements of a run: energy, GPU counters, peak memory, loss plot.

Imports schemas, `core`, and `collective`, `protocol` of `gemfit.train`: sees the trainer as a `TrainerView`.
"""
