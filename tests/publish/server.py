"""Fake Hub on this machine: the HTTP calls of huggingface_hub that push a model and load it.

Repositories with commits, branches and tags; small files in commits, large ones over LFS (in one part or
in parts), and no xet storage (404). ``faults`` make it fail as networks and servers do. HF_ENDPOINT points
the client to it.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from publish.protocol import Handler
from publish.repos import LARGE_BYTES, TOKEN, Entry, Fault, Repo, Request


class HubServer:
    """The server, inside ``with``. ``folder`` stores the content of files."""

    def __init__(self, folder: Path, *, part_bytes: int | None = None, token: str = TOKEN) -> None:
        self.folder, self.part_bytes, self.token = folder, part_bytes, token
        folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        handler = type("Handler", (Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a client."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "NO_PROXY": "127.0.0.1"}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def sent_bytes(self, path: str = "/storage/") -> int:
        """Bytes of all request bodies received for paths that contain ``path``."""
        return sum(request.body_bytes for request in self.requests if path in request.path)

    def count(self, method: str, path: str) -> int:
        return sum(request.method == method and path in request.path for request in self.requests)

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due for this request."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def store(self, data: bytes) -> Entry:
        """Store the content of a file that does not go over LFS."""
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        (self.folder / oid).write_bytes(data)
        return Entry(len(data), oid, large=False)

    def publish(self, name: str, folder: Path, message: str = "files") -> str:
        """A commit on ``main`` of repository ``name`` with the files of ``folder``; its hash."""
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            entry = self.store(data)
            if len(data) >= LARGE_BYTES:
                entry = Entry(len(data), hashlib.sha256(data).hexdigest(), large=True)
                (self.folder / entry.oid).write_bytes(data)
            files[path.relative_to(folder).as_posix()] = entry
        with self.lock:
            return self.repos.setdefault(name, Repo(private=False)).add("main", files, message)

    def content(self, entry: Entry) -> bytes:
        return (self.folder / entry.oid).read_bytes()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when ``condition`` holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
