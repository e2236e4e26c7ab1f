"""Commits of Hub repositories: a branch or tag names another content tomorrow, a commit never does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from gemfit.core.install_hint import install_hint
from gemfit.errors import UserError

Kind = Literal["model", "dataset"]
_TIMEOUT_SECONDS = 20.0
_TRUE = ("1", "ON", "YES", "TRUE")


def is_commit(revision: str) -> bool:
    """Whether a revision is the full hash of a commit."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set, as huggingface_hub reads it."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def cached_commit(
    kind: Kind, name: str, revision: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The commit that the Hub cache of ``environment`` has for a revision; asks no network."""
    if is_commit(revision):
        return revision
    return _cached(_cache_folder(kind, name, environment) / "refs" / revision)


@cache
def _cached(ref: Path) -> str | None:
    """Read once per command: what a build downloads meanwhile does not change its plan."""
    try:
        commit = ref.read_text().strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def cached_snapshot(kind: Kind, name: str, commit: str) -> Path | None:
    """The folder of a commit in the Hub cache, if something of it was downloaded."""
    folder = _cache_folder(kind, name, os.environ) / "snapshots" / commit
    return folder if folder.is_dir() else None


def dataset_commit(name: str, revision: str, environment: Mapping[str, str] = os.environ) -> str:
    """The commit of a dataset's revision, as the Hub says now.

    If ``environment``, in which it is read, is offline, the commit that its cache has.
    """
    if is_commit(revision):
        return revision
    if is_offline(environment):
        if (cached := cached_commit("dataset", name, revision, environment)) is not None:
            return cached
        raise UserError(
            f"hf:{name}: HF_HUB_OFFLINE is set, and revision {revision!r} is not in the Hub cache "
            f"({hub_cache(environment)}); run `gemfit fetch` where there is a network, or pin "
            "data.hf_revision to a commit"
        )
    return _asked(name, revision)


@cache
def _asked(name: str, revision: str) -> str:
    """Asked once per command, so that all its plans are of one commit."""
    try:
        # Half a second to import, and the base installation lacks it.
        from httpx2 import HTTPError  # noqa: PLC0415
        from huggingface_hub import HfApi  # noqa: PLC0415
        from huggingface_hub.errors import (  # noqa: PLC0415
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise UserError(
            f"hf:{name}: huggingface_hub is needed to find the commit of {revision!r}: "
            f"{install_hint('train')}; or pin data.hf_revision to a commit"
        ) from None
    try:
        sha = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_SECONDS).sha
    except RevisionNotFoundError:
        raise UserError(f"hf:{name}: has no revision {revision!r}; check data.hf_revision") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"hf:{name}: there is no such folder here, and no such dataset on the Hub that you may read; "
            "check the name, or log in (hf auth login)"
        ) from None
    except (HTTPError, OSError, ValueError) as error:  # HfHubHTTPError is an OSError
        raise UserError(
            f"hf:{name}: the Hub does not answer: {_first_line(error)}; check the network, pin "
            "data.hf_revision to a commit, or set HF_HUB_OFFLINE=1 to take what the Hub cache has"
        ) from None
    assert sha is not None, "the Hub names the commit of a revision"
    return sha


def _cache_folder(kind: Kind, name: str, environment: Mapping[str, str]) -> Path:
    return hub_cache(environment) / f"{kind}s--{name.replace('/', '--')}"


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Cache folder of ``huggingface_hub``, by its environment variables."""
    if folder := environment.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    cache_home = environment.get("XDG_CACHE_HOME", "~/.cache")
    return Path(environment.get("HF_HOME", f"{cache_home}/huggingface")).expanduser() / "hub"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
