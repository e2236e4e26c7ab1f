"""Runs on this machine: build the pack, start the launcher, follow it, read its status.

May import `planning`, `output`; does not know Slurm.
"""
