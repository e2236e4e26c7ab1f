"""Remote input over the protocols of S3, Google Cloud Storage and the Hub, from servers on this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import fsspec
import pytest
from gcp_storage_emulator.server import create_server
from huggingface_hub import HfFileSystem, constants
from moto.server import ThreadedMotoServer

from gemfit.errors import UserError
from gemfit_launch.runs import fetch_input as module
from gemfit_launch.runs import remote_file
from gemfit_launch.runs.fetch_input import fetch_input
from publish.repos import Repo
from publish.server import HubServer

CONTENT = b"".join(b'{"number": %d}\n' % number for number in range(50_000))
NAME = "bucket/chats/one.jsonl"
KEY, SECRET = "key-of-the-tests", "secret-of-the-tests"


class Killed(BaseException):
    """The end of a command in the middle of a download."""


Put = Callable[[bytes], None]
Store = Callable[[pytest.MonkeyPatch, Path], AbstractContextManager[Put]]


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Put]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name, value in {
        "ACCESS_KEY_ID": KEY,
        "SECRET_ACCESS_KEY": SECRET,
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.makedirs("bucket", exist_ok=True)
    yield lambda content: files.pipe(NAME, content)
    server.stop()


@contextmanager
def gcs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Put]:
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_address[1]}")
    files = fsspec.filesystem("gs", skip_instance_cache=True)
    yield lambda content: files.pipe(NAME, content)
    server.stop()


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Put]:
    with HubServer(folder / "hub") as server:
        repo = server.repos["bucket/chats"] = Repo(private=True)

        def put(content: bytes) -> None:
            repo.add("main", {"one.jsonl": server.store(content)}, "data")

        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield put


STORES: dict[str, tuple[str, Store]] = {
    "s3": (f"s3://{NAME}", s3),
    "gs": (f"gs://{NAME}", gcs),
    "hf": (f"hf://datasets/{NAME}", hub),
}


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_cache: Path
) -> Iterator[tuple[str, Put]]:
    """A URL, and a function that puts content there."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_READ_BYTES", 2**17)
    monkeypatch.setattr(remote_file, "_BLOCK_BYTES", 2**18)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for files in ("s3", "gs"):
        fsspec.get_filesystem_class(files).clear_instance_cache()
    HfFileSystem.clear_instance_cache()
    url, serve = STORES[request.param]
    with serve(monkeypatch, tmp_path) as put:
        yield url, put


def test_a_file_is_streamed_into_the_cache_and_no_credentials_are(
    store: tuple[str, Put], empty_cache: Path
) -> None:
    url, put = store
    put(CONTENT)
    said: list[str] = []
    path = fetch_input(url, said.append)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in (empty_cache / "input").iterdir()] == [path.name]
    assert not re.search("secret-of|key-of|hf_of", f"{said} {path.read_text()}")


def test_the_next_command_goes_on_where_one_was_killed(
    store: tuple[str, Put], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, put = store
    put(CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(module._Download, "_add", kill_second(module._Download._add))
        with pytest.raises(Killed):
            fetch_input(url, print)
    kept = next((empty_cache / "input").glob("*.partial")).stat().st_size
    assert 0 < kept < len(CONTENT)
    for file in (empty_cache / "input").iterdir():
        assert not re.search("secret-of|key-of|hf_of|127.0.0.1|bucket", file.read_text())
    starts = []

    def opened(url: str, start: int, version: str) -> remote_file.RemotePart:
        part = remote_file.open_remote(url, start, version)
        starts.append(part.start)
        return part

    monkeypatch.setattr(module, "open_remote", opened)
    assert fetch_input(url, print).read_bytes() == CONTENT
    assert starts == [kept]


def kill_second(add: Callable[..., None]) -> Callable[..., None]:
    calls = []

    def killed(download: object, block: bytes) -> None:
        calls.append(block)
        if len(calls) == 2:
            raise Killed
        add(download, block)

    return killed


def test_a_file_that_changes_between_two_requests_is_never_mixed(
    store: tuple[str, Put], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, put = store
    put(CONTENT)
    add = module._Download._add
    changes = [lambda: put(CONTENT[::-1])]

    def changed(download: module._Download, block: bytes) -> None:
        if changes:
            changes.pop()()
        add(download, block)

    monkeypatch.setattr(module._Download, "_add", changed)
    with suppress(UserError):  # where the store itself notices it, the download begins again
        fetch_input(url, print)
    assert fetch_input(url, print).read_bytes() == CONTENT[::-1]
    assert [file.read_bytes() for file in (empty_cache / "input").iterdir()] == [CONTENT[::-1]]


def test_what_is_not_there_is_said(store: tuple[str, Put]) -> None:
    url, put = store
    put(CONTENT)
    with pytest.raises(UserError, match=rf"^{url}x: there is no such file"):
        fetch_input(f"{url}x", print)
    with pytest.raises(UserError, match="is a folder; give one file of it"):
        fetch_input(url.removesuffix("/one.jsonl"), print)


@pytest.fixture(autouse=True)
def quiet_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("werkzeug", "gcsfs"):
        logging.getLogger(name).setLevel(logging.ERROR)
