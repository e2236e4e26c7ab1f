"""The Hub as a push sees it: every call that huggingface_hub makes for it, with time limits.

``HF_ENDPOINT`` says which server it is, and nothing else differs between the public Hub and another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx2
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    set_client_factory,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import default_client_factory, get_session, hf_raise_for_status
from huggingface_hub.utils._runtime import is_xet_available

from gemfit.errors import UserError
from gemfit.publish.retry import describe, status_of
from gemfit.upload.spool import Push

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""Longest silence of a server within a request. Without one, huggingface_hub waits for ever."""
PROBE_SECONDS = 10.0

_WEIGHTS = (".safetensors", ".safetensors.index.json", "adapter_config.json")


@dataclass(frozen=True, slots=True)
class Hub:
    """One endpoint, with a token."""

    api: HfApi
    token: str

    @property
    def endpoint(self) -> str:
        return str(self.api.endpoint)

    def answers(self, repo: str) -> bool:
        """Whether anything at all comes back soon; one quick request, without the token."""
        try:
            get_session().get(f"{self.endpoint}/api/models/{repo}", timeout=PROBE_SECONDS)
        except (httpx2.TransportError, ConnectionError):
            return False
        return True

    def deliver(self, push: Push, folder: Path, names: Iterable[str]) -> CommitInfo:
        """Bring the files ``names`` of ``folder`` into the repository, as one commit.

        May be called again after any failure: what has arrived is not sent again, and a commit that was
        made, but not heard of, is found. Weights that an earlier push left under other names are removed.
        """
        api = self.api
        api.create_repo(push.repo, private=push.private, exist_ok=True)
        if push.branch != constants.DEFAULT_REVISION:
            api.create_branch(push.repo, branch=push.branch, exist_ok=True)
        self._choose_transfer(push)
        wanted = set(names)
        there = api.list_repo_files(push.repo, revision=push.branch)
        stale = [name for name in there if name.endswith(_WEIGHTS) and name not in wanted]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in sorted(wanted)),
            *(CommitOperationDelete(name) for name in stale),
        ]
        done = api.create_commit(
            push.repo, operations, commit_message=push.message, revision=push.branch, num_threads=1
        )
        if push.tag:
            self._tag(push, done.oid)
        return done

    def _tag(self, push: Push, commit: str) -> None:
        """Tag ``commit``; the tag of an earlier push of the same step moves."""
        api = self.api
        try:
            api.create_tag(push.repo, tag=push.tag_name, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            api.delete_tag(push.repo, tag=push.tag_name)
            api.create_tag(push.repo, tag=push.tag_name, revision=commit)

    def _choose_transfer(self, push: Push) -> None:
        """Xet storage where the server has it, else LFS: huggingface_hub takes xet without asking."""
        if not is_xet_available():
            return
        url = f"{self.endpoint}/api/models/{push.repo}/xet-write-token/{push.branch}"
        answer = get_session().get(url, headers=build_hf_headers(token=self.token))
        if answer.status_code == 404:
            logger.info("%s has no xet storage: sending over LFS", self.endpoint)
            constants.HF_HUB_DISABLE_XET = True
        else:
            hf_raise_for_status(answer)


def open_hub() -> Hub:
    """The Hub that the environment names, with its token; no token is a ``UserError``."""
    set_client_factory(_client)
    token = get_token()
    if token is None:
        raise UserError(
            f"{constants.ENDPOINT}: there is no token to push with; log in with `hf auth login`, "
            "or set HF_TOKEN"
        )
    return Hub(HfApi(token=token), token)


def refused(hub: Hub, push: Push, error: Exception) -> NoReturn:
    """Raise the ``UserError`` of a request that the Hub will never take; a bug stays as it is."""
    status = status_of(error)
    place = f"{hub.endpoint}: {push.repo}"
    if status is None:
        if isinstance(error, ValueError) and "metadata" in str(error):
            raise UserError(f"{place}: the card is refused: {' '.join(str(error).split())}") from error
        raise error
    ways: dict[int, Callable[[], str]] = {
        401: lambda: "the token is wrong or has expired; log in with `hf auth login`, or set HF_TOKEN",
        403: lambda: "the token may not write there; use one with write permission for this namespace",
        404: lambda: "there is no such repository, and the token may not see or make it",
    }
    way = ways.get(status, lambda: "the Hub does not take this push")
    raise UserError(f"{place}: {way()} ({describe(error)})") from error


def _client() -> httpx2.Client:
    client = default_client_factory()
    client.timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    return client
