"""Download of one repository at one commit, verified against the digests of the Hub.

Public functions of huggingface_hub do the work: a transfer that breaks off continues where it was, files that
are in the cache are not sent again, and a branch names the new commit once all files are there.
"""

from __future__ import annotations

import glob
import logging
import shutil
from pathlib import Path
from typing import NoReturn

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from gemfit.core.hub_commit import Kind, is_commit
from gemfit.errors import UserError
from gemfit.fetch.needed import Repository, needed_files
from gemfit.fetch.partial_files import remove_abandoned
from gemfit.hub.retry import (
    WRONG_ANSWER,
    Unreachable,
    describe,
    http_error,
    is_wrong_answer,
    retried,
    status_of,
)
from gemfit.schemas.base import Contract

logger = logging.getLogger(__name__)

MOVES = 3
"""How often a branch may move while it is downloaded."""


class Fetched(Contract):
    """A repository in the cache, every byte as the Hub has it."""

    kind: Kind
    name: str
    revision: str
    """As it was asked for."""
    commit: str
    files: int
    bytes: int
    downloaded_bytes: int
    """Bytes that were not in the cache before."""
    folder: str
    """The snapshot."""


def fetch_repository(repository: Repository) -> Fetched:
    """Download what is needed of ``repository``; raises ``Unreachable`` where the Hub stays away.

    A repository that may not be read, a missing revision, and a full disk are a ``UserError``.
    """
    try:
        for _ in range(MOVES):
            fetched = _fetch_commit(repository)
            if _names_commit(repository, fetched):
                return fetched
    except Unreachable:
        raise
    except FileExistsError as error:
        raise UserError(
            f"{error.filename}: a file is in place of a folder of the cache; move it away"
        ) from error
    except HFValidationError:
        raise UserError(
            f"{repository.key}: {repository.name!r} is no folder here, and no name on the Hub; "
            "write namespace/name"
        ) from None
    except Exception as error:
        if (refusal := http_error(error)) is not None:  # also behind the error of a missing file
            _raise_refusal(repository, refusal)
        if not is_wrong_answer(error):
            raise
        place = f"{repository.key}: {constants.ENDPOINT}: {repository.name}"
        raise UserError(f"{place}: {WRONG_ANSWER.format(describe(error))}") from error
    raise UserError(
        f"{repository.key}: {repository.name}: {repository.revision} moves faster than it is downloaded; "
        "name a commit"
    )


def _fetch_commit(repository: Repository) -> Fetched:
    api, kind, name = HfApi(), repository.kind, repository.name
    info = retried(lambda: api.repo_info(name, repo_type=kind, revision=repository.revision))
    commit = str(info.sha)
    tree = retried(lambda: list(api.list_repo_tree(name, recursive=True, repo_type=kind, revision=commit)))
    sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    cached = {file for file in sizes if _cached_file(repository, commit, file)}
    names = list(dict.fromkeys(retried(lambda: needed_files(repository, commit, sizes))))
    _check_listed(repository, commit, [file for file in names if file not in sizes])
    missing = [file for file in names if file not in cached]
    missing_bytes = sum(sizes[file] for file in missing)
    remove_abandoned(Path(constants.HF_HUB_CACHE), _folder(repository))
    _check_disk(repository, missing_bytes)
    logger.info("%s at %s: %d of %d files to download", name, commit[:8], len(missing), len(names))
    folder = _download(repository, commit, names)
    _verify(repository, commit, names)
    return Fetched(
        kind=kind,
        name=name,
        revision=repository.revision,
        commit=commit,
        files=len(names),
        bytes=sum(sizes[file] for file in names),
        downloaded_bytes=missing_bytes,
        folder=str(folder),
    )


def _check_listed(repository: Repository, commit: str, absent: list[str]) -> None:
    if absent:
        raise UserError(
            f"{repository.key}: {repository.name} at {commit}: its index or README names {absent[0]!r}, "
            "which is not among its files; use another revision or repository, or fetch again if it is being "
            "changed"
        )


def _cached_file(repository: Repository, commit: str, file: str) -> bool:
    return (Path(constants.HF_HUB_CACHE) / _folder(repository) / "snapshots" / commit / file).is_file()


def _folder(repository: Repository) -> str:
    """Name of the repository's folder in the cache."""
    return f"{repository.kind}s--{repository.name.replace('/', '--')}"


def _download(repository: Repository, revision: str, names: list[str]) -> Path:
    patterns = [glob.escape(name) for name in names]
    return Path(
        retried(
            lambda: snapshot_download(
                repository.name, repo_type=repository.kind, revision=revision, allow_patterns=patterns
            )
        )
    )


def _names_commit(repository: Repository, fetched: Fetched) -> bool:
    """Let the branch name the commit in the cache; false where it has moved meanwhile."""
    folder = Path(fetched.folder)
    any_file = next(path for path in folder.rglob("*") if path.is_file())
    named = _download(repository, repository.revision, [any_file.relative_to(folder).as_posix()])
    if named.name != fetched.commit:
        return False
    if not is_commit(repository.revision):  # huggingface_hub passes over a file that it cannot write
        ref = folder.parents[1] / "refs" / repository.revision
        if not ref.is_file() or ref.read_text().strip() != fetched.commit:
            raise UserError(f"{ref}: the commit of the branch cannot be written; move away what is there")
    return True


def _verify(repository: Repository, commit: str, names: list[str]) -> None:
    """Compare digests with the Hub's; a damaged file is downloaded once more."""
    for is_last in (False, True):
        damaged = _damaged(repository, commit, names)
        if not damaged:
            return
        if is_last:
            raise UserError(
                f"{repository.name}: {', '.join(damaged)}: the digest is not the Hub's, twice; "
                "check the disk, and whether a proxy changes what it sends"
            )
        for file in damaged:
            logger.warning("%s: %s is damaged; downloading it again", repository.name, file)
            _download_again(repository, commit, file)


def _download_again(repository: Repository, commit: str, file: str) -> None:
    retried(
        lambda: hf_hub_download(
            repository.name, file, repo_type=repository.kind, revision=commit, force_download=True
        )
    )


def _damaged(repository: Repository, commit: str, names: list[str]) -> list[str]:
    api, kind = HfApi(), repository.kind
    found = retried(lambda: api.verify_repo_checksums(repository.name, repo_type=kind, revision=commit))
    wrong = {mismatch["path"] for mismatch in found.mismatches} | set(found.missing_paths)
    return [name for name in names if name in wrong]


def _check_disk(repository: Repository, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache}: the cache cannot be made: {error.strerror}; set HF_HOME to a folder of yours"
        ) from None
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise UserError(
            f"{cache}: {free / 1e9:,.1f} GB free, and {repository.name} needs {needed / 1e9:,.1f}; "
            "set HF_HOME to a larger disk"
        )


def _raise_refusal(repository: Repository, error: HfHubHTTPError) -> NoReturn:
    """The ``UserError`` of a request that the Hub refuses for good."""
    name, endpoint = repository.name, constants.ENDPOINT
    place = f"{repository.key}: {endpoint}: {name}"
    page = f"{endpoint}/{'datasets/' if repository.kind == 'dataset' else ''}{name}"
    if isinstance(error, GatedRepoError):
        raise UserError(
            f"{place}: is gated: open {page}, accept its terms with the account of your token, and fetch "
            "again (`hf auth login`, or HF_TOKEN; a fine-grained token needs the right to read gated "
            "repositories)"
        ) from None
    if isinstance(error, RevisionNotFoundError):
        raise UserError(f"{place}: has no revision {repository.revision!r}; check it in the recipe") from None
    if isinstance(error, RepositoryNotFoundError):
        raise UserError(
            f"{place}: there is none of this name that you may read: check the name; if it is private, "
            "log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    if status_of(error) == 401:
        raise UserError(
            f"{place}: the token is wrong or has expired; log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    raise UserError(f"{place}: the Hub refuses: {describe(error)}") from error
