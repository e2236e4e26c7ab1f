"""Spool of a run: pending, ready and sent pushes as files below ``RUN/hub``.

A pending push is a small file, ``pending/step-N.json``; a ready one a folder, ``step-N``, with an export,
a card and a manifest. Neither needs a network. No torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from gemfit.core.atomic_file import write_atomic
from gemfit.core.file_lock import explaining_locks, try_lock
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.schemas.hub import Branch, HubRecipe, RepoId
from gemfit.schemas.manifest import FileDigest

Record = TypeVar("Record", bound=Contract)


class Push(Contract):
    """A push of one checkpoint: where it goes, and in which form."""

    step: Annotated[int, Field(ge=0)]
    repo: RepoId
    private: bool
    branch: Branch
    tag: bool
    merge_adapter: bool
    multimodal: bool
    message: str

    @property
    def tag_name(self) -> str:
        return f"step-{self.step}"

    def replaces(self, other: Push) -> bool:
        """Whether ``other`` need not be sent once this one is."""
        same_place = (self.repo, self.branch) == (other.repo, other.branch)
        return same_place and self.step >= other.step and not other.tag


class ReadyPush(Contract):
    """Manifest of a folder that is ready to be sent."""

    push: Push
    files: tuple[FileDigest, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class SentPush(Contract):
    """A push that has been sent."""

    push: Push
    endpoint: str
    commit: str
    """Id of the commit in the repository, in hexadecimal."""
    url: str
    content: str
    """Digest of the manifest of the files."""
    bytes: int
    """Size of all files, including those that the Hub had already."""
    seconds: float
    time: float
    """Seconds since the Unix epoch."""


class SentPushes(Contract):
    """All sent pushes of a run, oldest first."""

    pushes: tuple[SentPush, ...] = ()


@dataclass(slots=True)
class SpoolResult:
    """Result of sending a spool."""

    sent: list[SentPush] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    reason: str = ""
    """Why some are still waiting."""
    refused: list[str] = field(default_factory=list)
    """Errors of pushes that cannot be exported, or that the Hub rejects; they are waiting too."""


def push_of_step(hub: HubRecipe, step: int) -> Push:
    """The push of the checkpoint of ``step`` that a recipe asks for."""
    assert hub.repo is not None, "a recipe that pushes names a repository"
    settings = hub.model_dump(include={"repo", "private", "branch", "tag", "merge_adapter", "multimodal"})
    return Push(step=step, message=f"Step {step}", **settings)


@dataclass(frozen=True, slots=True)
class Spool:
    """Spool of one run."""

    root: Path

    @classmethod
    def of(cls, run: RunDir) -> Spool:
        return cls(run.spool)

    @property
    def log(self) -> Path:
        """Log of the processes that push during training."""
        return self.root / "push.log"

    @property
    def sent_file(self) -> Path:
        return self.root / "sent.json"

    def folder(self, step: int) -> Path:
        """Folder of the ready push of ``step``."""
        return self.root / f"step-{step:08d}"

    @staticmethod
    def files(folder: Path) -> Path:
        """The files to send, inside ``folder``."""
        return folder / "files"

    @staticmethod
    def manifest_file(folder: Path) -> Path:
        return folder / "manifest.json"

    def add(self, push: Push) -> None:
        """Add a pending push, and remove the pending pushes that it replaces."""
        for older in self.pending():
            if push.replaces(older):
                self.remove_pending(older.step)
        self._pending_file(push.step).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._pending_file(push.step), push.to_json())

    def pending(self) -> list[Push]:
        """Pushes that are not exported yet, oldest step first."""
        found = [_read(Push, path) for path in sorted(self._pending_file(0).parent.glob("step-*.json"))]
        return [push for push in found if push is not None]

    def ready(self) -> list[ReadyPush]:
        """Pushes that are ready to be sent, oldest step first."""
        manifests = sorted(self.root.glob(f"step-*/{self.manifest_file(Path()).name}"))
        found = [_read(ReadyPush, path) for path in manifests]
        return [ready for ready in found if ready is not None]

    def waiting(self, step: int) -> Push | None:
        """The push of ``step`` that is pending or ready, if any."""
        pushes = [*self.pending(), *(ready.push for ready in self.ready())]
        return next((push for push in pushes if push.step == step), None)

    def sent(self) -> tuple[SentPush, ...]:
        """All sent pushes, oldest first."""
        return SentPushes.read(self.sent_file).pushes if self.sent_file.is_file() else ()

    def last_sent(self, push: Push, endpoint: str) -> SentPush | None:
        """The last sent push of the same weights to the same place; message and tag may differ."""
        volatile = {"message", "private", "tag"}
        form = push.model_dump(exclude=volatile)
        there = [sent for sent in self.sent() if sent.endpoint == endpoint]
        same = [sent for sent in there if sent.push.model_dump(exclude=volatile) == form]
        return same[-1] if same else None

    def was_sent(self, ready: ReadyPush, endpoint: str) -> bool:
        """Whether exactly these files were sent, by a process that ended before it removed them."""
        return any((one.content, one.endpoint) == (ready.digest, endpoint) for one in self.sent())

    def remove_pending(self, step: int) -> None:
        """Remove the pending push of ``step``."""
        self._pending_file(step).unlink(missing_ok=True)

    def record(self, sent: SentPush) -> None:
        """Add ``sent`` to the sent pushes, and remove its files."""
        write_atomic(self.sent_file, SentPushes(pushes=(*self.sent(), sent)).to_json())
        self.remove(sent.push.step)

    def remove(self, step: int) -> None:
        """Remove the push of ``step``, pending or ready."""
        self.remove_pending(step)
        shutil.rmtree(self.folder(step), ignore_errors=True)

    @contextmanager
    def locked(self, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Lock the spool; yields whether this process has the lock. Removes partial exports of others."""
        lock = self.root / "lock"
        with explaining_locks(lock):
            self.root.mkdir(parents=True, exist_ok=True)
            stream = lock.open("a")
        with stream:
            with explaining_locks(lock):
                locked = try_lock(stream.fileno(), patience_seconds=wait_seconds)
            if locked:
                for leftover in self.root.glob(".step-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
            yield locked

    def _pending_file(self, step: int) -> Path:
        return self.root / "pending" / f"step-{step:08d}.json"


def _read(kind: type[Record], path: Path) -> Record | None:
    """The record at ``path``; ``None`` if another process has just removed it."""
    try:
        return kind.read(path)
    except UserError:
        if path.exists():
            raise
        return None
