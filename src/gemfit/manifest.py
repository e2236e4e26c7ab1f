"""What a folder of packed rows or a checkpoint contains, with the digests that prove it.

A manifest is written last: whoever finds one may trust every file that it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import JsonValue

from gemfit.contract import Contract


class FileDigest(Contract):
    """One file of a committed folder."""

    path: str
    """Relative to the folder, with `/`."""
    bytes: int
    xxh3: str
    """XXH3-128 of the content, in hexadecimal."""


def missing_or_resized(folder: Path, files: Iterable[FileDigest]) -> str | None:
    """The first of ``files`` that is not in ``folder`` with its size, in words; reads no content."""
    for file in files:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if (size := path.stat().st_size) != file.bytes:
            return f"{file.path} has {size:,} bytes where {file.bytes:,} were written"
    return None


class SplitCounts(Contract):
    """What one split (train or validation) holds."""

    rows: int
    conversations: int
    documents: int
    """Pieces of conversations; more than `conversations` where long ones were split."""
    tokens: int
    """Real tokens in rows: no padding."""
    trained_tokens: int
    """Tokens with a label."""

    def fill(self, seq_len: int) -> float:
        """Share of the rows' places that hold a real token, 0 to 1."""
        return self.tokens / (self.rows * seq_len) if self.rows else 0.0


class Losses(Contract):
    """What did not become a trained token once, and why. Counts are exact."""

    lines_read: int
    blank_lines: int
    rejected_lines: int
    duplicate_conversations: int
    """Exact copies, each counted once less than it occurs; they are left out."""
    split_conversations: int
    repeated_tokens: int
    """Masked context written again at the start of a continued piece."""
    truncated_conversations: int
    truncated_tokens: int
    dropped_conversations: int
    dropped_tokens: int


class PackManifest(Contract):
    """A finished pack: rows of `seq_len` tokens, and all that they depend on."""

    fingerprint: str
    """Of data, tokenizer source and settings: the name of the pack in the cache."""
    tokenizer_digest: str
    """Of the tokenizer and template as loaded: training refuses any other."""
    format: str
    eos: str
    loss_on: str
    seq_len: int
    overlong: str
    pad_id: int
    bos_id: int | None
    eos_id: int
    splits: dict[str, SplitCounts]
    losses: Losses
    files: tuple[FileDigest, ...]
    versions: dict[str, str]


class CheckpointManifest(Contract):
    """A committed checkpoint."""

    step: int
    """Optimizer steps done."""
    cursor_row: int
    """Next row of the data, as in `DataCursor.row`."""
    world_size: int
    strategy: str
    plan_digest: str
    """Of the plan that it was saved under; strategy and world size are part of it."""
    training: dict[str, JsonValue]
    """What decides the training, as `Plan.training_identity` gives it: a resume compares it."""
    attempt: int
    eval_loss: float | None = None
    files: tuple[FileDigest, ...]
