"""Short measured runs of a recipe on synthetic data, compared in one table.

May import `runs`, `planning`, `output`.
"""
