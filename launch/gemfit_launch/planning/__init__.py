"""From a recipe and a set of ranks to a complete ``Plan``, and the plan's configuration files.

May import `predict`; imports neither runs, Slurm nor output.
"""
