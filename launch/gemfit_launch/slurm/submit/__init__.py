"""From a plan to a submitted job: run folder, code snapshot, sbatch text, sweeps.

Imports `commands`.
"""
