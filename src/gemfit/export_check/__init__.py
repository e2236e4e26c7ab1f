"""Check of an export: other programs load it, and compute what the run's own model computes.

Imports `evaluate`, `export`, `train.model`, schemas.
"""
