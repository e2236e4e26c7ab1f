"""Client of the Hub: repository, commit and tag of a push through huggingface_hub, with timeouts.

``HF_ENDPOINT`` names the server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
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
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from gemfit.errors import UserError
from gemfit.hub.retry import WRONG_ANSWER, describe, is_wrong_answer, status_of
from gemfit.hub.timeouts import set_timeouts
from gemfit.upload.spool import Push

logger = logging.getLogger(__name__)

PROBE_SECONDS = 10.0

_REASONS = {
    401: "the token is wrong or has expired; log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; use one with write permission for this namespace",
    404: "the repository does not exist, and the token may not read or create it",
}
_WEIGHTS = (".safetensors", ".safetensors.index.json", "adapter_config.json")


@dataclass(frozen=True, slots=True)
class Hub:
    """One endpoint with a token."""

    api: HfApi
    token: str

    @property
    def endpoint(self) -> str:
        return str(self.api.endpoint)

    def is_reachable(self, repo: str) -> bool:
        """Whether the endpoint answers at all within ``PROBE_SECONDS``; one request without the token."""
        try:
            get_session().get(f"{self.endpoint}/api/models/{repo}", timeout=PROBE_SECONDS)
        except (httpx2.TransportError, ConnectionError):
            return False
        return True

    def commit(self, push: Push, folder: Path, names: Iterable[str]) -> CommitInfo:
        """Commit the files ``names`` of ``folder`` to the repository, which is created if it does not exist.

        Idempotent: files that have arrived are not sent again, and a commit whose response was lost is
        found. Weights of earlier pushes under other names are removed.
        """
        api = self.api
        api.create_repo(push.repo, private=push.private, exist_ok=True)
        if push.branch != constants.DEFAULT_REVISION:
            api.create_branch(push.repo, branch=push.branch, exist_ok=True)
        self._choose_transfer(push)
        sent = set(names)
        existing = api.list_repo_files(push.repo, revision=push.branch)
        stale = [name for name in existing if name.endswith(_WEIGHTS) and name not in sent]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in sorted(sent)),
            *(CommitOperationDelete(name) for name in stale),
        ]
        made = api.create_commit(
            push.repo, operations, commit_message=push.message, revision=push.branch, num_threads=1
        )
        if push.tag:
            self._tag(push, made.oid)
        return made

    def _tag(self, push: Push, commit: str) -> None:
        """Tag ``commit``; an existing tag of the step is moved."""
        api = self.api
        try:
            api.create_tag(push.repo, tag=push.tag_name, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            api.delete_tag(push.repo, tag=push.tag_name)
            api.create_tag(push.repo, tag=push.tag_name, revision=commit)

    def _choose_transfer(self, push: Push) -> None:
        """Use LFS where the server has no xet storage: huggingface_hub uses xet without asking."""
        if constants.HF_HUB_DISABLE_XET:
            return
        url = f"{self.endpoint}/api/models/{push.repo}/xet-write-token/{push.branch}"
        response = get_session().get(url, headers=build_hf_headers(token=self.token))
        if response.status_code == 404:
            logger.info("%s has no xet storage: sending over LFS", self.endpoint)
            constants.HF_HUB_DISABLE_XET = True
        else:
            hf_raise_for_status(response)


def open_hub() -> Hub:
    """The Hub that the environment names, with its token; a missing token is a ``UserError``."""
    set_timeouts()
    token = get_token()
    if token is None:
        raise UserError(
            f"{constants.ENDPOINT}: no token to push with; log in with `hf auth login`, or set HF_TOKEN"
        )
    return Hub(HfApi(token=token), token)


def raise_refusal(hub: Hub, push: Push, error: Exception) -> NoReturn:
    """Raise the ``UserError`` of a request that the Hub rejects for good; other errors unchanged.

    A server that redirects for ever, or answers what no Hub does, counts as one that rejects.
    """
    status = status_of(error)
    place = f"{hub.endpoint}: {push.repo}"
    if status is None:
        if isinstance(error, ValueError) and "metadata" in str(error):
            raise UserError(f"{place}: the card is rejected: {' '.join(str(error).split())}") from error
        if is_wrong_answer(error):
            raise UserError(f"{place}: {WRONG_ANSWER.format(describe(error))}") from error
        raise error
    reason = _REASONS.get(status, "the Hub rejects this push")
    raise UserError(f"{place}: {reason} ({describe(error)})") from error
