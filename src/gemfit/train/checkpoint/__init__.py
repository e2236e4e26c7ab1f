"""Checkpoints: staged, digested, committed by one rename, and never resumed unless whole.

What is imported here needs no torch; ``saving`` and ``background`` do.
"""

from gemfit.train.checkpoint.store import SupersededError, newest_valid

__all__ = ["SupersededError", "newest_valid"]
