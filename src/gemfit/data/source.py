"""The conversations of a job, whatever its source, and whether the input is still what was planned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gemfit.data.conversation import Conversation
from gemfit.data.read import Tally, read_files
from gemfit.errors import UserError
from gemfit.packing import PackJob, SourceFile


def read_source(job: PackJob, tally: Tally) -> Iterator[Conversation]:
    """Stream every valid conversation of the job, counting in ``tally``."""
    if job.files:
        return read_files([Path(file.path) for file in job.files], tally)
    # datasets takes most of a second to import; a job on files does not need it here.
    from gemfit.data.hub import read_hub  # noqa: PLC0415

    return read_hub(job.data, tally)


def check_unchanged(files: tuple[SourceFile, ...]) -> None:
    """Refuse files whose bytes differ from those that named the pack: the cache would lie."""
    for file in files:
        path = Path(file.path)
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if digest != file.blake2b:
            raise UserError(f"{path}: has changed since the pack was planned; run the command again")
