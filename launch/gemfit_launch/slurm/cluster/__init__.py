"""Queries to Slurm: partitions, job states, preflight, cancel, requeue, generating a site file.

Imports `sites`, `records`, `commands` and `runs`.
"""
