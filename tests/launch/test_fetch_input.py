"""Remote input: downloaded once, resumed, known by its content."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files, shown_url
from gemfit_launch.runs import fetch_input as module
from gemfit_launch.runs.fetch_input import fetch_input

CONTENT = b"".join(b'{"number": %d}\n' % number for number in range(100_000))
Said = list[str]


class Server(ThreadingHTTPServer):
    """Serves ``content``; each of ``cuts`` ends one answer after so many bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.status = CONTENT, '"one"', 0
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/chats.jsonl"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        self.server.paths.append(self.path)
        if self.server.status:
            self.send_error(self.server.status)
            return
        start = 0
        if asked and self.headers.get("If-Range") == self.server.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        data = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.server.cuts.pop(0)] if self.server.cuts else data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_download_that_breaks_off_goes_on(server: Server, empty_cache: Path) -> None:
    server.cuts = [100_000, 0, 300_000]
    said: Said = []
    path = fetch_input(f"{server.url}?token=secret", said.append)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith(".jsonl")
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]
    assert [file.name for file in (empty_cache / "input").iterdir()] == [path.name]
    assert "secret" not in said[0]


def test_spaces_and_letters_are_escaped_and_escapes_stay(server: Server, empty_cache: Path) -> None:
    root = server.url.removesuffix("/chats.jsonl")
    for name in ("my chats.jsonl?a=b c", "%20é.jsonl?q=%C3%A9&x[]=+", "a+b(1),2;~.jsonl"):
        fetch_input(f"{root}/{name}", print)
    assert server.paths == [
        "/my%20chats.jsonl?a=b%20c",
        "/%20%C3%A9.jsonl?q=%C3%A9&x[]=+",
        "/a+b(1),2;~.jsonl",
    ]


@pytest.mark.parametrize("url", ["http://[::1/a.jsonl?key=secret", "s3://[bucket/a.jsonl?key=secret"])
def test_what_is_no_url_is_refused(url: str, empty_cache: Path) -> None:
    with pytest.raises(UserError, match=r"is not a URL: .*; check its brackets") as refused:
        fetch_input(url, print)
    assert "secret" not in str(refused.value)


def test_the_next_command_goes_on_where_one_gave_up(server: Server, empty_cache: Path) -> None:
    server.cuts = [50_000, *[0] * 20]
    with pytest.raises(UserError, match=r"breaks off after 50,000 bytes.*the next command goes on"):
        fetch_input(server.url, print)
    for file in (empty_cache / "input").iterdir():
        assert b"127.0.0.1" not in file.read_bytes()
    server.cuts, server.ranges = [], []
    assert fetch_input(server.url, print).read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-"]


def test_a_file_that_changed_meanwhile_is_read_from_its_beginning(server: Server) -> None:
    server.cuts = [50_000, *[0] * 20]
    with pytest.raises(UserError, match="breaks off"):
        fetch_input(server.url, print)
    server.cuts, server.content, server.tag = [], CONTENT[::-1], '"two"'
    assert fetch_input(server.url, print).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("status", "message"), [(404, "cannot be read: 404"), (503, "cannot be read: .*503.*; check the URL")]
)
def test_what_the_server_refuses_is_said(status: int, message: str, server: Server) -> None:
    server.status = status
    with pytest.raises(UserError, match=message):
        fetch_input(server.url, print)
    assert len(server.ranges) == (1 if status == 404 else 5)


def test_other_urls_are_read_by_fsspec(empty_cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/chats.json", b"[1, 2]")
    path = fetch_input("memory://bucket/chats.json", print)
    assert path.read_bytes() == b"[1, 2]"
    assert path.suffix == ".json"
    with pytest.raises(UserError, match="there is no such file"):
        fetch_input("memory://bucket/other.json", print)
    with pytest.raises(UserError, match="is a folder"):
        fetch_input("memory://bucket", print)
    with pytest.raises(UserError, match=r"cannot be read: .*nothing"):
        fetch_input("nothing://bucket/x.jsonl", print)


def test_credentials_in_a_url_are_refused_and_not_shown_url() -> None:
    with pytest.raises(UserError, match=r"^https://host/a\.jsonl: has credentials in it") as refused:
        fetch_input("https://me:secret@host/a.jsonl?key=secret", print)
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match="is remote") as refused:
        find_files("https://me:secret@host/a.jsonl?key=secret")
    assert "secret" not in str(refused.value)
    assert shown_url("s3://bucket/a.jsonl") == "s3://bucket/a.jsonl"
