"""The checkpoint format on disk: store, digests, retention, verification. No torch.

Imports schemas, `rundir`, `errors` and `core`; `train.checkpoint` writes and loads the tensors.
"""

from gemfit.checkpoint.store import SupersededError, newest_valid

__all__ = ["SupersededError", "newest_valid"]
