"""What a login node asks of Slurm: partitions, job states, preflight, cancel, requeue.

May import `submit`, `sites` and `commands`.
"""
