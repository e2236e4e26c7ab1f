"""What a run folder keeps of its Slurm jobs: submissions, logs, and how each attempt began and ended.

Imports only the core package.
"""
