"""What is to be sent to the Hub, what is ready to be sent, and what was sent: files below ``RUN/hub``.

A push goes through two of them: a small wish, ``pending/step-N.json``, and a folder ``step-N`` with all
that is sent and the manifest that proves it. Neither needs a network. No torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gemfit.core.atomic_file import write_atomic
from gemfit.core.file_lock import try_lock
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.manifest import FileDigest

POLL_SECONDS = 0.1
Noted = TypeVar("Noted", bound=Contract)


class Push(Contract):
    """A checkpoint that somebody wants on the Hub, and in which form."""

    step: int
    repo: str
    private: bool
    branch: str
    tag: bool
    merge_adapter: bool
    multimodal: bool
    message: str

    @property
    def tag_name(self) -> str:
        return f"step-{self.step}"

    def replaces(self, other: Push) -> bool:
        """Whether ``other`` need not be sent any more where this one is."""
        same_place = (self.repo, self.branch) == (other.repo, other.branch)
        return same_place and self.step >= other.step and not other.tag


class Staged(Contract):
    """The manifest of a folder that is ready to be sent."""

    push: Push
    files: tuple[FileDigest, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class Sent(Contract):
    """A push that is done."""

    push: Push
    endpoint: str
    commit: str
    """Of the repository, in hexadecimal."""
    url: str
    content: str
    """Digest of the manifest of what was sent."""
    bytes: int
    """Of all files, whether the Hub had some of them already or not."""
    seconds: float
    time: float
    """Seconds since the Unix epoch."""


class SentPushes(Contract):
    """All that a run has sent, oldest first."""

    pushes: tuple[Sent, ...] = ()


@dataclass(slots=True)
class Delivery:
    """What became of a spool."""

    sent: list[Sent] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    reason: str = ""
    """Why some are waiting."""
    refused: list[str] = field(default_factory=list)
    """What cannot be staged, and what the Hub will not take as it is; that waits as well."""


def wanted_push(hub: HubRecipe, step: int) -> Push:
    """What a recipe wants of the checkpoint of ``step``."""
    assert hub.repo is not None, "a recipe that pushes names a repository"
    settings = hub.model_dump(include={"repo", "private", "branch", "tag", "merge_adapter", "multimodal"})
    return Push(step=step, message=f"Step {step}", **settings)


@dataclass(frozen=True, slots=True)
class Spool:
    """The spool of one run."""

    root: Path

    @classmethod
    def of(cls, run: RunDir) -> Spool:
        return cls(run.spool)

    @property
    def log(self) -> Path:
        """What the processes that push beside the training printed."""
        return self.root / "push.log"

    @property
    def sent_file(self) -> Path:
        return self.root / "sent.json"

    def folder(self, step: int) -> Path:
        """Where the push of ``step`` is ready to be sent."""
        return self.root / f"step-{step:08d}"

    @staticmethod
    def files(folder: Path) -> Path:
        """What is sent, inside ``folder``."""
        return folder / "files"

    @staticmethod
    def manifest_file(folder: Path) -> Path:
        return folder / "manifest.json"

    def want(self, push: Push) -> None:
        """Note ``push``, and drop the wishes that it replaces."""
        for older in self.wanted():
            if push.replaces(older):
                self._pending_file(older.step).unlink(missing_ok=True)
        self._pending_file(push.step).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._pending_file(push.step), push.to_json())

    def wanted(self) -> list[Push]:
        """Pushes whose folder is not ready, oldest step first."""
        found = [_read(Push, path) for path in sorted(self._pending_file(0).parent.glob("step-*.json"))]
        return [push for push in found if push is not None]

    def staged(self) -> list[Staged]:
        """Pushes that are ready to be sent, oldest step first."""
        manifests = sorted(self.root.glob(f"step-*/{self.manifest_file(Path()).name}"))
        found = [_read(Staged, path) for path in manifests]
        return [staged for staged in found if staged is not None]

    def waiting(self, step: int) -> Push | None:
        """The push of ``step`` that is not sent, ready or not."""
        pushes = [*self.wanted(), *(staged.push for staged in self.staged())]
        return next((push for push in pushes if push.step == step), None)

    def sent(self) -> tuple[Sent, ...]:
        return SentPushes.read(self.sent_file).pushes if self.sent_file.is_file() else ()

    def sent_as(self, push: Push, endpoint: str) -> Sent | None:
        """The sending of the same weights to the same place, whatever was said about it."""
        volatile = {"message", "private", "tag"}
        form = push.model_dump(exclude=volatile)
        there = [sent for sent in self.sent() if sent.endpoint == endpoint]
        same = [sent for sent in there if sent.push.model_dump(exclude=volatile) == form]
        return same[-1] if same else None

    def was_sent(self, staged: Staged, endpoint: str) -> bool:
        """Whether exactly this was sent: the process ended before it could clear up."""
        return any((one.content, one.endpoint) == (staged.digest, endpoint) for one in self.sent())

    def fulfil(self, step: int) -> None:
        """Forget the wish for ``step``: its folder is ready, or can no longer be made."""
        self._pending_file(step).unlink(missing_ok=True)

    def record(self, sent: Sent) -> None:
        """Note that ``sent`` is done, and remove what was sent."""
        write_atomic(self.sent_file, SentPushes(pushes=(*self.sent(), sent)).to_json())
        self.drop(sent.push.step)

    def drop(self, step: int) -> None:
        """Forget the push of ``step``, ready or not."""
        self._pending_file(step).unlink(missing_ok=True)
        shutil.rmtree(self.folder(step), ignore_errors=True)

    @contextmanager
    def hold(self, *, patience_seconds: float = 0.0) -> Iterator[bool]:
        """Whether this process alone may stage and send; inside, what others left half-made is cleared."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a") as stream:
            if free := try_lock(stream.fileno(), patience_seconds=patience_seconds):
                for leftover in self.root.glob(".step-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
            yield free

    def _pending_file(self, step: int) -> Path:
        return self.root / "pending" / f"step-{step:08d}.json"


def _read(kind: type[Noted], path: Path) -> Noted | None:
    """What is noted at ``path``; ``None`` where another process has removed it a moment ago."""
    try:
        return kind.read(path)
    except UserError:
        if path.exists():
            raise
        return None
