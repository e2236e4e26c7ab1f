"""Data of the fake Hub: repositories, faults, recorded requests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

TOKEN = "hf_of_the_tests"
USER = "user"
LARGE_BYTES = 100_000
"""Files from this size on go over LFS."""


@dataclass(slots=True)
class Fault:
    """A failure of the next ``times`` matching requests, before they are served."""

    method: str
    path: str
    """Regular expression, searched in the path."""
    times: int = 1
    status: int = 0
    """Answer with this status instead."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Of that answer, instead of an error as JSON."""
    stall_seconds: float = 0.0
    """Do not answer for this long, or until the server closes."""
    cut_after: int | None = None
    """Receive this many bytes of the body, then close the connection."""
    answer_bytes: int | None = None
    """Close the connection after this many bytes of the answer's body."""
    serve_first: bool = False
    """Serve the request, then fail: the response is lost."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a commit."""

    size: int
    oid: str
    """SHA-256 of a large file's content, git's SHA-1 of a small one's."""
    large: bool


@dataclass(slots=True)
class Repo:
    """A repository: files by commit, commits by branch and tag."""

    private: bool
    gated: bool = False
    """Files are refused to every token, as before the terms are accepted."""
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)

    def add(self, branch: str, files: dict[str, Entry], message: str) -> str:
        state = json.dumps([message, sorted(files), len(self.commits)])
        commit = hashlib.sha1(state.encode()).hexdigest()
        self.commits[commit], self.messages[commit], self.branches[branch] = files, message, commit
        return commit


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request, with the bytes of its body that were received."""

    method: str
    path: str
    body_bytes: int
    status: int
