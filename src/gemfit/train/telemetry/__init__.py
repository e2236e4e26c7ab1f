"""Measurements of a run: energy, GPU counters, peak memory, loss plot.

Sees the trainer only through `TrainerView`.
"""
