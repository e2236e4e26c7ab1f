"""From a plan to a submitted job: code snapshot, sbatch text, sweeps.

Imports `sites`, `records`, `commands` and `planning`.
"""
