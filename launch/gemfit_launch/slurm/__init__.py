"""Runs as Slurm jobs: sites, the text of a job, the commands of Slurm, and what a login node sees."""
