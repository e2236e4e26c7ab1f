"""What a login node asks of Slurm: partitions, job states, preflight, cancel, requeue, a first site file.

Imports `sites`, `records`, `commands` and `runs`.
"""
