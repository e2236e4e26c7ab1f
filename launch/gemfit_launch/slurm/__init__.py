"""Runs as Slurm jobs: sites, sbatch text, Slurm commands, node supervisor.

May import `runs`, `planning`, `output`, `doctor`.
"""
