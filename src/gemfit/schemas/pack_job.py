"""Input of a pack build, and its fingerprint, under which the pack is cached.

The launcher computes the fingerprint without a tokenizer; ``gemfit.data`` builds the pack.
"""

from __future__ import annotations

import os
from pathlib import Path

from gemfit.core.hub_commit import dataset_commit
from gemfit.errors import UserError
from gemfit.schemas.base import Contract, digest_json
from gemfit.schemas.find_inputs import check_name, find_files, find_inputs, path_of
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.source_file import (
    SourceFile,
    check_readable,
    content_note,
    digest_file,
    digest_files,
)

PACK_FORMAT = 9
"""Increased whenever the same input would give other rows."""

COMPRESSION_RATIO = 5
"""Bytes of text per byte of a compressed file, estimated: gzip's of `examples/conversations.jsonl`."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")


class JobSource(Contract):
    """One source of conversations: files, or a streamed data set of the Hub."""

    name: str
    weight: float = 1.0
    """Occurrences of each of its conversations per epoch."""
    hub: str | None = None
    """Name or local folder for ``datasets``; `None` for files."""
    commit: str | None = None
    """Commit of a dataset on the Hub; `None` for a local folder, whose files are digested."""
    hf_config: str | None = None
    hf_split: str = "train"
    is_validation: bool = False
    """Whether it is the validation split, or part of it: never trained."""


class PackJob(Contract):
    """Everything that the builder needs: the input of ``python -m gemfit.data``."""

    data: DataRecipe
    tokenizer: str | None
    """Hugging Face id or local folder; `None` trains one for `scratch`."""
    tokenizer_revision: str
    scratch_vocab_size: int | None
    seed: int
    sources: tuple[JobSource, ...]
    files: tuple[SourceFile, ...]
    """Of the sources that are files or local folders for ``datasets``, in order."""
    fingerprint: str
    notes: tuple[str, ...] = ()
    """What to say of the input, a line each: what folders hold, and files of misleading names."""

    @property
    def streams(self) -> bool:
        """Whether a source is read from the Hub, so that its size is not known."""
        return any(source.hub is not None for source in self.sources)

    @property
    def input_bytes(self) -> int:
        """Bytes of its files, compressed ones as they are."""
        return sum(file.bytes for file in self.files)

    @property
    def text_bytes(self) -> int:
        """Bytes of its files once decompressed; of compressed ones an estimate."""
        return sum(file.bytes * (COMPRESSION_RATIO if file.is_compressed else 1) for file in self.files)


def make_pack_job(recipe: Recipe) -> PackJob:
    """Find and digest the input files, and compute the fingerprint of the pack.

    A process reads every input byte once. Missing, empty and unreadable sources are a ``UserError``, and so
    is a Hub that does not answer, unless the commits of its datasets are given.
    """
    sources = job_sources(recipe.data)
    paths: list[tuple[Path, int]] = []
    notes: list[str] = []
    for number, (source, origin) in enumerate(sources):
        found, note = _files_of(source, origin)
        paths += [(path, number) for path in found]
        notes += [note] if note else []
    digested = digest_files([path for path, _ in paths])
    files = tuple(
        file.model_copy(update={"source": number}) for file, (_, number) in zip(digested, paths, strict=True)
    )
    jobs = tuple(source for source, _ in sources)
    lines = [file for file in files if jobs[file.source].hub is None]
    for file in lines:
        check_readable(file)
    scratch = recipe.model.scratch
    tokenizer, revision = recipe.model.tokenizer_source or (None, "main")
    return PackJob(
        data=recipe.data,
        tokenizer=tokenizer,
        tokenizer_revision=revision,
        scratch_vocab_size=scratch.vocab_size if scratch else None,
        seed=recipe.seed,
        sources=jobs,
        files=files,
        fingerprint=digest_json(_meaning(recipe, jobs, files)),
        notes=(*notes, *(note for file in lines if (note := content_note(file)))),
    )


def _meaning(recipe: Recipe, sources: tuple[JobSource, ...], files: tuple[SourceFile, ...]) -> object:
    """Everything that the rows depend on; equal for equal packs."""
    drawn = any(source.weight != 1 for source in sources)
    return {
        "format": PACK_FORMAT,
        "settings": recipe.data.model_dump(
            mode="json", exclude={"source", "sources", "hf_config", "hf_split", "hf_revision", "validation"}
        ),
        "sources": [
            source.model_dump(mode="json", exclude={"name"} if source.commit else {"name", "hub"})
            | {"files": [_file_meaning(source, file) for file in files if file.source == number]}
            for number, source in enumerate(sources)
        ],
        # What a weight below 1 leaves out is drawn by the seed.
        "seed": recipe.seed if drawn else None,
        "tokenizer": _tokenizer_identity(recipe.model),
    }


def job_sources(data: DataRecipe) -> list[tuple[JobSource, str]]:
    """Every source, with its file name, folder or glob."""
    if not data.mixture:
        find_files(None)  # says how to name the data
    return [
        (
            JobSource(
                name=source.title,
                weight=source.weight,
                hub=_hub(source.source),
                commit=_commit(source),
                hf_config=source.hf_config,
                hf_split=source.hf_split,
                is_validation=number < len(data.validation),
            ),
            source.source,
        )
        for number, source in enumerate(data.all_sources)
    ]


def cache_folder() -> Path:
    """``$GEMFIT_CACHE``, else ``$XDG_CACHE_HOME/gemfit``, else ``~/.cache/gemfit``."""
    if own := os.environ.get("GEMFIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemfit"


def pack_folder(fingerprint: str) -> Path:
    """Folder of the pack with this fingerprint, whether or not it exists."""
    return cache_folder() / "packs" / fingerprint


def _file_meaning(source: JobSource, file: SourceFile) -> object:
    """What of a file the rows depend on: a renamed or moved one gives the same."""
    if source.hub is None:
        return file.xxh3 if file.kind == "jsonl" else [file.kind, file.xxh3]
    # ``datasets`` reads splits and formats from the names.
    return [Path(file.path).relative_to(source.hub).as_posix(), file.xxh3]


def _files_of(source: JobSource, origin: str) -> tuple[list[Path], str | None]:
    """The files of a source, and what to say of them."""
    if source.hub is None:
        return find_inputs(origin)
    return ([] if source.commit else _all_files(Path(source.hub))), None


def _all_files(folder: Path) -> list[Path]:
    """Every file of a folder that ``datasets`` reads: which ones count, its README may say."""
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if linked := next((path for path in shown if path.is_symlink() and path.is_dir()), None):
        raise UserError(
            f"hf:{folder}: {linked.relative_to(folder)} is a link to a folder, which is not followed; "
            "put the folder itself there, or give the files without hf:"
        )
    found = [path for path in shown if path.is_file() and path.stat().st_size]
    if not found:
        raise UserError(f"hf:{folder}: there is no file in this folder")
    for path in found:
        check_name(str(path))
    return found


def _hub(source: str) -> str | None:
    """What follows `hf:`, a local folder as a path; or `None`."""
    if not source.startswith("hf:"):
        return None
    name = source.removeprefix("hf:")
    if not name:
        raise UserError(f"{source}: names no dataset; write hf:NAME or hf:FOLDER")
    path = path_of(name)
    if path.is_file():
        raise UserError(f"{source}: is a file; `hf:` takes a folder or a dataset on the Hub: write {name}")
    return str(path) if path.is_dir() else name


def _commit(source: SourceRecipe) -> str | None:
    """The commit of a source on the Hub, the one that is given or the newest; `None` for all others."""
    name = _hub(source.source)
    if name is None:
        return None
    if Path(name).is_dir():
        if source.hf_revision is not None:
            raise UserError(f"{source.source}: is a folder, so data.hf_revision has no effect; remove it")
        return None
    return dataset_commit(name, source.hf_revision or "main")


def _tokenizer_identity(model: ModelRecipe) -> object:
    if model.scratch is not None:
        return {"trained": model.scratch.vocab_size}
    assert model.tokenizer_source is not None, "ModelRecipe has an id or is scratch"
    name, revision = model.tokenizer_source
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {"id": name, "revision": revision}
    return {f: digest_file(folder / f).xxh3 for f in TOKENIZER_FILES if (folder / f).is_file()}
