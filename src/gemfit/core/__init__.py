"""Atomic files and folders, file locks, file digests, JSON-lines logs, progress bars.

Imports the standard library and `errors`; knows nothing of training.
"""
