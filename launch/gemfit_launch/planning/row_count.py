"""Number of training rows per epoch: counted in the pack, or estimated and marked as an estimate.

Reads every input byte once, to find the pack that belongs to it; writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from gemfit.errors import UserError
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import PackJob, make_pack_job, pack_folder
from gemfit.schemas.plan import PackReference
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.source_file import SourceFile

BYTES_PER_TOKEN = 4
BYTES_PER_COMPRESSED_BYTE = 4
PLACEHOLDER_TOKENS = 10_000_000
"""Size of the data behind the reproduced model; a placeholder where no data is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Training rows of one epoch, and whether they were counted or estimated."""

    count: int
    pack: PackReference
    packed: bool
    note: str | None = None
    """How the number was obtained, where it was not counted in a pack."""
    data_notes: tuple[str, ...] = ()
    """As `PackJob.notes`."""


def find_rows(recipe: Recipe) -> Rows:
    """Rows of the finished pack; else an estimate from the size of the data; else a placeholder."""
    if not recipe.data.mixture:
        nothing = PackReference(fingerprint="", folder="")
        return _placeholder(recipe.data, nothing, "no data is given (--data FILE)")
    job = make_pack_job(recipe)
    # Absolute, because a run may be resumed from another working folder.
    folder = pack_folder(job.fingerprint).absolute()
    pack = PackReference(fingerprint=job.fingerprint, folder=str(folder))
    if (manifest := finished_pack(folder)) is not None:
        rows = manifest.splits["train"].rows
        return Rows(count=rows, pack=pack, packed=True, data_notes=job.notes)
    streams = [source.name for source in job.sources if source.hub is not None]
    if streams:
        found = _placeholder(recipe.data, pack, f"{', '.join(streams)} is not packed yet")
    else:
        found = _estimate(job, pack)
    return replace(found, data_notes=job.notes)


def finished_pack(folder: Path) -> PackManifest | None:
    """The manifest of the pack in ``folder``, or ``None`` before it is built."""
    if not folder.exists():
        return None
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: is not a finished pack (it has no manifest.json); remove the folder")
    return PackManifest.read(folder / "manifest.json")


def _estimate(job: PackJob, pack: PackReference) -> Rows:
    size = sum(
        file.bytes * _expansion(file) * job.sources[file.source].weight
        for file in job.files
        if not job.sources[file.source].is_validation
    )
    tokens = size / BYTES_PER_TOKEN * (1 - job.data.validation_share)
    return Rows(
        count=_rows(tokens, job.data),
        pack=pack,
        packed=False,
        note=f"rows are estimated from the size of the data, {BYTES_PER_TOKEN} bytes per token; "
        "`gemfit pack` counts them",
    )


def _placeholder(data: DataRecipe, pack: PackReference, why: str) -> Rows:
    return Rows(
        count=_rows(PLACEHOLDER_TOKENS, data),
        pack=pack,
        packed=False,
        note=f"{why}: rows are a placeholder, estimated for {PLACEHOLDER_TOKENS:,} training tokens, "
        "the size of the data behind the reference recipe",
    )


def _rows(tokens: float, data: DataRecipe) -> int:
    rows = max(1, math.ceil(tokens / data.seq_len))
    return rows if data.max_rows is None else min(rows, data.max_rows)


def _expansion(file: SourceFile) -> int:
    return BYTES_PER_COMPRESSED_BYTE if file.compression or file.kind == "parquet" else 1
