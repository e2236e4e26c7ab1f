"""Remote files from a byte on: HTTP by the standard library, every other URL by ``fsspec``.

Credentials come from where these look for them: environment variables and their own files.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from gemfit.errors import UserError
from gemfit.schemas.find_inputs import shown_url

_TIMEOUT_SECONDS = 60.0
_RANGE_NOT_SATISFIABLE = 416
_VERSIONS = ("ETag", "etag", "blob_id", "generation", "mtime")
"""What file systems of fsspec say that changes with the content."""
_BLOCK_BYTES = 8 * 2**20
"""Bytes of one request of fsspec: what is lost when it breaks off."""
_LATER = (408, 425, 429)
"""Errors that ask for another attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemotePart:
    """The rest of a remote file."""

    stream: BinaryIO
    start: int
    """Its first byte: 0 where what was asked for is not to be had, or the file has changed."""
    total: int | None
    """Bytes of the whole file, where known."""
    version: str
    """Equal while the content is; empty where that is not known."""
    is_current: Callable[[], bool] = lambda: True
    """Whether the file still has this version: of several requests, each could be of another."""


def open_remote(url: str, start: int, version: str) -> RemotePart:
    """The file from byte ``start`` on, if it still has this version; else from its beginning."""
    start = start if version else 0
    return _over_http(url, start, version) if is_http(url) else _over_fsspec(url, start, version)


def check_url(url: str) -> None:
    """``UserError`` for a URL that is none, or that has credentials in it."""
    try:
        username = urlsplit(url).username
    except ValueError as error:
        raise UserError(f"{shown_url(url)}: is not a URL: {error}; check its brackets") from None
    if username is not None:
        raise UserError(f"{shown_url(url)}: has credentials in it; use environment variables, or ~/.netrc")


def is_http(url: str) -> bool:
    """Whether the standard library reads it."""
    return url.lower().startswith(("http://", "https://"))


def _over_http(url: str, start: int, version: str) -> RemotePart:
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    try:
        response = urlopen(Request(_quoted(url), headers=headers), timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        with error:
            if error.code == _RANGE_NOT_SATISFIABLE and start:
                return _over_http(url, 0, "")
            if error.code < 500 and error.code not in _LATER:
                way_out = "check the URL, and the credentials in the environment"
                raise UserError(
                    f"{shown_url(url)}: cannot be read: {error.code} {error.reason}; {way_out}"
                ) from None
            raise
    found = response.headers
    begins = start if response.status == 206 else 0
    length = found.get("Content-Length")
    tag = found.get("ETag") or ""
    return RemotePart(
        stream=cast(BinaryIO, response),
        start=begins,
        total=begins + int(length) if length is not None else None,
        version=found.get("Last-Modified") or "" if tag.startswith("W/") or not tag else tag,
    )


def _quoted(url: str) -> str:
    """The URL with escapes for spaces and characters that are not ASCII, as browsers write them."""
    parts = urlsplit(url)
    path, query = (quote(text, safe=string.punctuation) for text in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query))


def _over_fsspec(url: str, start: int, version: str) -> RemotePart:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415  (slow to import, and not in the base installation)

        filesystem, path = url_to_fs(url)
        info: dict[str, Any] = filesystem.info(path)
        if info.get("type") == "directory":
            raise UserError(f"{shown_url(url)}: is a folder; give one file of it")
        found = _version(info)
        begins = start if found == version else 0
        stream = filesystem.open(path, "rb", block_size=_BLOCK_BYTES)
        stream.seek(begins)
    except ImportError as error:
        raise UserError(f"{shown_url(url)}: {error}; install that, or download the file") from None
    except FileNotFoundError as error:
        raise UserError(f"{shown_url(url)}: there is no such file: {error}") from None
    except (PermissionError, ValueError) as error:
        raise UserError(f"{shown_url(url)}: cannot be read: {error or type(error).__name__}") from None

    def is_current() -> bool:
        filesystem.invalidate_cache()
        return _version(filesystem.info(path)) == found

    return RemotePart(
        stream=cast(BinaryIO, stream),
        start=begins,
        total=info.get("size"),
        version=found,
        is_current=is_current,
    )


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
