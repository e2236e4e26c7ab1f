"""Find a pack by its fingerprint, or build it with ``gemfit.data``."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gemfit.core.atomic_file import temporary_name
from gemfit.core.atomic_folder import explaining, make_folder
from gemfit.errors import ExitCode
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import PackJob
from gemfit_launch.planning.row_count import finished_pack
from gemfit_launch.runs.python_module import require_train_extra, run_module

_FRESH, _OLD = "fresh-", "old-"


class PackFailed(Exception):
    """The builder failed and has printed why; ``code`` is its exit code."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__(f"the pack was not built (exit {code.value})")
        self.code = code


def ensure_pack(
    job: PackJob, folder: Path, *, force: bool, say: Callable[[str], None], options: Sequence[str] = ()
) -> PackManifest:
    """The manifest of the pack in ``folder``; builds it from ``job`` if there is none, or on ``force``.

    ``options`` are passed to the builder; they do not change the result.
    """
    for note in job.notes:
        say(note)
    manifest = finished_pack(folder)
    if manifest is not None and not force:
        say(f"already packed: {folder}")
        return manifest
    require_train_extra("pack")
    say(f"packing into {folder}")
    make_folder(folder.parent)
    if manifest is None:
        _build(job, folder, options)
    else:
        _rebuild(job, folder, options)
    built = finished_pack(folder)
    assert built is not None, "the builder says that it is done"
    return built


def make_shard(job: PackJob, folder: Path, shard: str, *, options: Sequence[str] = ()) -> None:
    """Build the blocks of one shard, `i/n`, of the pack that will be in ``folder``."""
    require_train_extra("pack")
    _build(job, folder, ["--shard", shard, *options])


def _build(job: PackJob, folder: Path, options: Sequence[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="gemfit-pack-") as stream:
        stream.write(job.to_json())
        stream.flush()
        code = run_module("gemfit.data", [stream.name, "--out", str(folder), *options])
    if code is not ExitCode.DONE:
        raise PackFailed(code)


def _rebuild(job: PackJob, folder: Path, options: Sequence[str]) -> None:
    """Build in a sibling folder and swap: a run that reads the old pack keeps its open files."""
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh, old = temporary_name(folder, _FRESH), temporary_name(folder, _OLD)
    _build(job, fresh, options)
    with explaining(folder):
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old)


def _leftovers(folder: Path) -> list[Path]:
    """What rebuilds that were killed more than a day ago have left."""
    starts = tuple(f".{folder.name}.{state}" for state in (_FRESH, _OLD))
    before = time.time() - 24 * 3600
    found = (path for path in folder.parent.iterdir() if path.name.startswith(starts))
    return [path for path in found if path.stat().st_mtime < before]
