"""Remote input as a file: downloaded into the cache, resumed where it broke off, named by its content.

Only the version of a file that was not finished is stored next to it: no URL and no credentials.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import xxhash

from gemfit.core.atomic_folder import explaining, make_folder
from gemfit.core.file_lock import try_lock
from gemfit.errors import UserError
from gemfit.schemas.base import digest_json
from gemfit.schemas.find_inputs import shown_url
from gemfit.schemas.pack_job import cache_folder
from gemfit.schemas.source_file import kind_by_name, suffix_of_content
from gemfit_launch.runs.remote_file import check_url, open_remote

_READ_BYTES = 2**20
_ATTEMPTS = 5
_PAUSE_SECONDS = 1.0


def fetch_input(url: str, say: Callable[[str], None]) -> Path:
    """A file in the cache with the content of ``url``; what was downloaded before is not again."""
    check_url(url)
    folder = cache_folder() / "input"
    partial = folder / f".{digest_json(url)}.partial"
    make_folder(folder)
    with explaining(partial):
        with partial.open("a+b") as copy:
            if not try_lock(copy.fileno()):
                raise UserError(f"{shown_url(url)}: another command is downloading it; wait for that one")
            digest, head = _Download(url, copy, partial.with_suffix(".version")).run()
        path = folder / f"{digest}{_suffix(url, head)}"
        partial.rename(path)
        partial.with_suffix(".version").unlink(missing_ok=True)
    say(f"{shown_url(url)}: {path.stat().st_size:,} bytes, kept for later commands as --data {path}")
    return path


class _Download:
    """One file, in as many parts as it takes."""

    def __init__(self, url: str, copy: BinaryIO, version_file: Path) -> None:
        self._url, self._copy, self._version_file = url, copy, version_file
        self._state, self._head, self._size = xxhash.xxh3_128(), b"", 0

    def run(self) -> tuple[str, bytes]:
        """Download to the end; the digest and the first bytes."""
        self._take_what_is_there()
        failures = 0
        while True:
            before = self._size
            try:
                if self._rest():
                    break
                error: object = "the connection was closed"
            except UserError:
                raise
            except Exception as caught:  # each package that fsspec takes has errors of its own
                error = caught
            failures = failures + 1 if self._size == before else 1
            if failures >= _ATTEMPTS:
                raise self._given_up(error)
            time.sleep(_PAUSE_SECONDS * failures)
        if not self._size:
            raise UserError(f"{shown_url(self._url)}: is empty; write one conversation per line")
        return str(self._state.hexdigest()), self._head

    def _given_up(self, error: object) -> UserError:
        if not self._size:
            way_out = "check the URL, the network, and the credentials in the environment"
            return UserError(f"{shown_url(self._url)}: cannot be read: {error}; {way_out}")
        return UserError(
            f"{shown_url(self._url)}: breaks off after {self._size:,} bytes: {error}; "
            "the next command goes on from there"
        )

    def _take_what_is_there(self) -> None:
        self._copy.seek(0)
        while block := self._copy.read(_READ_BYTES):
            self._add(block)

    def _rest(self) -> bool:
        """One part, up to where it breaks off; whether the file is whole."""
        version = self._version_file.read_text() if self._version_file.is_file() else ""
        part = open_remote(self._url, self._size, version)
        with part.stream as stream:
            if part.start != self._size:
                self._copy.truncate(0)
                self._state, self._head, self._size = xxhash.xxh3_128(), b"", 0
            self._version_file.write_text(part.version)
            while block := stream.read(_READ_BYTES):
                self._copy.write(block)
                self._copy.flush()
                self._add(block)
        is_whole = part.total is None or self._size >= part.total
        if is_whole and not part.is_current():
            self._version_file.write_text("")
            raise UserError(f"{shown_url(self._url)}: has changed meanwhile; run the command again")
        return is_whole

    def _add(self, block: Any) -> None:
        self._head = self._head or block
        self._state.update(block)
        self._size += len(block)


def _suffix(url: str, head: bytes) -> str:
    """As the URL has it, if that is of a kind that is read; else by the content."""
    name = PurePosixPath(urlsplit(url).path).name
    if kind_by_name(name) is None:
        return suffix_of_content(head)
    suffixes = PurePosixPath(name).suffixes[-2:]
    return "".join(suffix for suffix in suffixes if kind_by_name(f"x{suffix}") is not None).lower()
