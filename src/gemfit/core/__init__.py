"""Atomic files and folders, file locks, digests, JSON-lines logs, progress bars, stop signals, install hints.

Imports the standard library, xxhash, tqdm, rich and `errors`; independent of data and training.
"""
