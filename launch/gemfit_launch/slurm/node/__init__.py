"""What runs inside a job: begin and end hooks, rendezvous, torchrun supervision, watchdog.

Imports `cluster`, `records`, `planning` and `runs`.
"""
