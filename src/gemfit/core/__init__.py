"""Atomic files and folders, file locks, file digests, JSON-lines logs, progress bars.

Imports the standard library, xxhash, tqdm and `errors`; independent of data and training.
"""
