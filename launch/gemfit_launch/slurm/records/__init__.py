"""Records of Slurm jobs in a run folder: submissions, logs, start and outcome of each attempt.

Imports only the core package.
"""
