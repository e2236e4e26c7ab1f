"""Runs as Slurm jobs: sites, sbatch text, Slurm commands, node supervisor.

Imports `runs` and `planning`; inside, each imports those before it: `states`, `durations` and
`records`, `commands`, `sites`, `cluster`, `submit`, `node`.
"""
