"""What runs inside a job: begin and end hooks, rendezvous, torchrun supervision, watchdog.

May import `cluster` and `submit`.
"""
