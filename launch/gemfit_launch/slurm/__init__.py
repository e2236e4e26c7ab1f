"""Runs as Slurm jobs: sites, sbatch text, Slurm commands, node supervisor.

Imports `runs` and `planning`; inside, each imports those before it: `commands` and `durations`, `records`,
`sites`, `cluster`, `submit`, `node`.
"""
