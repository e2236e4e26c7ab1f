"""The `gemfit` command: from a recipe to a plan, a local run or a Slurm job.

Imports `gemfit.schemas`, `config`, `core`, `checkpoint` (the parts without torch), click,
rich; never torch.
"""
