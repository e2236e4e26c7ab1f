"""Checkpoints: staged, digested, committed by one rename, and never resumed unless whole."""

from gemfit.train.checkpoint.saving import resume, save
from gemfit.train.checkpoint.store import SupersededError, newest_valid

__all__ = ["SupersededError", "newest_valid", "resume", "save"]
