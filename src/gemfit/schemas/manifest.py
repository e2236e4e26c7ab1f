"""Manifests of packs and checkpoints: their files with sizes and digests.

A manifest is written last, so every file that it names is complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, field_validator

from gemfit.schemas.base import Contract


def _inside(path: str) -> str:
    """``path`` if it can only name a file below the folder of its manifest."""
    parts = path.split("/")
    if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not the name of a file below the folder of the manifest")
    return path


class FileDigest(Contract):
    """One file of a committed folder."""

    path: Annotated[str, AfterValidator(_inside)]
    """Relative to the folder, with `/`."""
    bytes: int
    xxh3: str
    """XXH3-128 of the content, in hexadecimal."""


def missing_or_resized(folder: Path, files: Iterable[FileDigest]) -> str | None:
    """Describes the first of ``files`` that is missing or has another size; reads no content."""
    for file in files:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if (size := path.stat().st_size) != file.bytes:
            return f"{file.path} has {size:,} bytes where {file.bytes:,} were written"
    return None


class SplitCounts(Contract):
    """Counts of one split (train or validation)."""

    rows: int
    conversations: int
    """Each counted once, however often it occurs."""
    documents: int
    """Chunks of conversations; more than `conversations` where long ones were split."""
    tokens: int
    """Real tokens in rows: no padding."""
    trained_tokens: int
    """Tokens with a label."""
    repeated_tokens: int = 0
    """Those of `tokens` that are masked context, written again at the start of a continued chunk."""

    def fill(self, seq_len: int) -> float:
        """Share of the rows' places that hold a real token, 0 to 1."""
        return self.tokens / (self.rows * seq_len) if self.rows else 0.0


class Losses(Contract):
    """Lines, conversations and tokens that were dropped, split or repeated. Counts are exact."""

    lines_read: int
    blank_lines: int
    rejected_lines: int
    untrained_lines: int = 0
    """With a `weight` of 0, or `train: false`; they are left out."""
    empty_messages: int = 0
    """Of all valid lines, those without any text; they are kept. Replies without text are bad lines."""
    duplicate_conversations: int
    """Exact copies, each counted once less than it occurs; they are left out."""
    near_duplicate_conversations: int = 0
    """Left out by `near_duplicates: drop`, or because `data.validation` has one like it."""
    also_in_validation: int = 0
    """Of the duplicates and near-duplicates: training conversations that `data.validation` has, too."""
    left_by_weight_conversations: int = 0
    """Not drawn, because their source has a weight below 1."""
    beyond_max_rows_conversations: int = 0
    split_conversations: int
    repeated_tokens: int
    """Masked context, written again at the start of a continued chunk."""
    mid_message_cuts: int = 0
    """Chunks that begin inside a message: cuts by `overlong: cut`, or of messages longer than a row."""
    untrained_conversations: int = 0
    """Left out whole, because nothing of them is trained."""
    untrained_tokens: int = 0
    """Of fragments without a single trained token, which are left out."""
    truncated_conversations: int
    truncated_tokens: int
    dropped_conversations: int
    dropped_tokens: int


class TokenFlow(Contract):
    """Token accounting of one source: tokens of valid conversations, as rendered."""

    tokens_read: int
    repeated: int
    """Masked context, written again at the start of a continued chunk."""
    oversampled: int
    """Written again because their source has a weight above 1."""
    packed: int
    """In rows, `repeated` and `oversampled` included."""
    duplicate: int
    near_duplicate: int
    left_by_weight: int
    beyond_max_rows: int
    overlong: int
    """Of conversations that `overlong: drop` left out."""
    truncated: int
    """Cut off by `overlong: truncate`."""
    untrained: int
    """Of fragments without a single trained token."""

    @property
    def balance(self) -> int:
        """Tokens read and repeated, less those packed and dropped: 0, or there is a bug."""
        lost = self.duplicate + self.near_duplicate + self.left_by_weight + self.beyond_max_rows
        lost += self.overlong + self.truncated + self.untrained
        return self.tokens_read + self.repeated + self.oversampled - self.packed - lost


class PackSource(Contract):
    """One source of conversations, as the recipe names it."""

    name: str
    weight: float
    is_validation: bool = False
    """Whether it is the validation split, or part of it."""


class PackInput(Contract):
    """One input file, one dataset on the Hub, or one local folder that ``datasets`` reads."""

    path: str
    bytes: int
    """0 for a stream."""
    xxh3: str
    """XXH3-128 of the content, in hexadecimal, of a folder that of its files' digests; empty for a stream."""
    source: int
    """Index into `PackManifest.sources`."""
    commit: str | None = None
    """Of a dataset on the Hub."""
    in_array: bool = False
    """Whether its lines are elements of a JSON array."""


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
    flow: dict[str, TokenFlow] = Field(default_factory=dict)
    """By name of the source, and `total`."""
    roles: dict[str, int] = Field(default_factory=dict)
    """Tokens of each role's turns in the conversations that are packed, each counted once; `control` is
    what belongs to no turn."""
    forms: dict[str, int] = Field(default_factory=dict)
    """Lines that are not written as `messages`, by the form in which they are."""
    pii: dict[str, int] = Field(default_factory=dict)
    """PII found, by kind."""
    sources: tuple[PackSource, ...] = ()
    inputs: tuple[PackInput, ...] = ()
    engine: str = ""
    """Tokenizer engine; all engines give the same tokens."""
    files: tuple[FileDigest, ...]
    versions: dict[str, str]

    @field_validator("splits")
    @classmethod
    def _has_rows_to_train(cls, splits: dict[str, SplitCounts]) -> dict[str, SplitCounts]:
        if "train" not in splits:
            raise ValueError("there is no `train`; pack the data again")
        return splits


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
    """`Plan.training_identity`: a resume compares it."""
    attempt: int
    eval_loss: float | None = None
    files: tuple[FileDigest, ...]
