"""Processes of servers that ``gemfit export --check`` starts: stand-ins of the server and of its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from gemfit.core.process_group import run_with_children
from gemfit.export_check import probe_serve
from gemfit.export_check.expected import ExpectedValues
from gemfit.export_check.readers import ExportReader, check_reader, readers_of

SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

here = Path(__file__).parents[2]
(here / "pid.part").write_text(str(os.getpid()))
(here / "pid.part").rename(here / "pid")
verb, folder, *rest = sys.argv[1:]
options = dict(zip(rest[::2], rest[1::2], strict=True))
assert (verb, options["--dtype"], options["--device"]) == ("serve", "float32", "cpu")
while not (here / "answers").exists():
    time.sleep(0.1)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, asked["model"], asked["temperature"]) == ("/v1/chat/completions", folder, 0)
        (answer,) = (a for m, a in json.loads((here / "answers").read_text()) if m == asked["messages"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""
CLIENT = """
import json
from types import SimpleNamespace
from urllib.request import Request, urlopen

__version__ = "stand-in"

class OpenAI:
    def __init__(self, *, base_url, **options):
        self.url = base_url + "/chat/completions"
        self.chat = SimpleNamespace(completions=self)

    def create(self, **asked):
        with urlopen(Request(self.url, json.dumps(asked).encode())) as found:
            return json.load(found, object_hook=lambda one: SimpleNamespace(**one))
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages ``transformers`` and ``openai`` of this folder, on a machine whose proxy does not answer."""
    (tmp_path / "transformers" / "cli").mkdir(parents=True)
    (tmp_path / "transformers" / "__init__.py").write_text("__version__ = 'stand-in'\n")
    (tmp_path / "transformers" / "cli" / "__init__.py").touch()
    (tmp_path / "transformers" / "cli" / "transformers.py").write_text(SERVER)
    (tmp_path / "openai.py").write_text(CLIENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return tmp_path


def answers(expected: ExpectedValues) -> str:
    """What the server answers to each list of messages."""
    texts = zip(expected.texts, expected.prompt_lengths, expected.stopped, strict=True)
    replies = [
        {
            "usage": {"prompt_tokens": length},
            "choices": [{"message": {"content": text}, "finish_reason": "stop" if stopped else "length"}],
        }
        for text, length, stopped in texts
    ]
    return json.dumps(list(zip(expected.case["prompts"], replies, strict=True)))


def has_ended(pid: int) -> bool:
    """Whether the process runs no more; its parent may not have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_end(pid: int) -> None:
    """Return when the process, which was sent SIGKILL, has ended."""
    end = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_is_asked_and_ended(exported: Path, expected: ExpectedValues, packages: Path) -> None:
    (packages / "answers").write_text(answers(expected))
    result = check_reader(ExportReader("server", "serve"), exported, expected)
    assert (result.state, result.reader) == ("equal", "server stand-in, openai stand-in"), result.found
    assert has_ended(int((packages / "pid").read_text()))


def test_a_client_that_fails_leaves_no_server(
    exported: Path, expected: ExpectedValues, packages: Path
) -> None:
    (packages / "answers").write_text("[]")
    result = check_reader(ExportReader("server", "serve"), exported, expected)
    assert result.state == "failed"
    assert has_ended(int((packages / "pid").read_text()))


def test_a_request_to_end_ends_the_server_first(packages: Path) -> None:
    script = [sys.executable, "-P", probe_serve.__file__, "serve"]
    with subprocess.Popen(script, stdin=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        client.stdin.write(json.dumps({"folder": "model", "prompts": []}))
        client.stdin.close()
        while not (packages / "pid").exists():
            assert client.poll() is None
        client.terminate()
    assert client.returncode == 128 + signal.SIGTERM
    assert has_ended(int((packages / "pid").read_text()))


def test_an_interrupt_ends_what_a_reader_has_started(tmp_path: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    # After its input, which is written when the process is known.
    script = f"read line; sleep 1000 & echo $! > {tmp_path / 'pid'}; kill -USR1 {os.getpid()}; wait"
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_with_children(["sh", "-c", script], text="begin\n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_for_end(int((tmp_path / "pid").read_text()))


def test_what_a_reader_leaves_behind_is_ended(tmp_path: Path) -> None:
    script = f"sleep 1000 > {os.devnull} 2>&1 & echo $! > {tmp_path / 'pid'}"
    assert run_with_children(["sh", "-c", script]).returncode == 0
    wait_for_end(int((tmp_path / "pid").read_text()))


def test_a_reader_that_hangs_is_ended_with_what_it_has_started_and_named(
    exported: Path, expected: ExpectedValues, tmp_path: Path
) -> None:
    hanging = tmp_path / "python"
    hanging.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {tmp_path}/pid; wait\n")
    hanging.chmod(0o755)
    result = check_reader(ExportReader("other", "transformers", str(hanging)), exported, expected, 2)
    assert (result.state, result.reader) == ("failed", "other")
    assert result.found.startswith("took more than 2 seconds and was ended; --timeout")
    wait_for_end(int((tmp_path / "pid").read_text()))


def test_an_environment_that_does_not_answer_lacks_every_package(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.export_check.readers.LOOK_SECONDS", 1)
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nsleep 1000\n")
    hanging.chmod(0o755)
    (here, there) = (one for one in readers_of(exported, [hanging], {}) if one.kind == "transformers")
    assert (here.absent, there.absent) == ("", "")
    servers = [one.python for one in readers_of(exported, [hanging], {}) if one.kind in ("serve", "vllm")]
    assert str(hanging) not in servers


@pytest.mark.parametrize("last", ["7", "null", "bye \\377", '{"losses": 3}'])
def test_what_is_printed_besides_the_result_is_passed_over(
    last: str, exported: Path, expected: ExpectedValues, tmp_path: Path
) -> None:
    found = {"version": "5", "texts": expected.texts}
    (tmp_path / "found").write_text(json.dumps(found) + "\n")
    printing = tmp_path / "python"
    printing.write_text(f"#!/bin/sh\ncat > {os.devnull}; cat {tmp_path}/found; printf '{last}\\n'\n")
    printing.chmod(0o755)
    result = check_reader(ExportReader("other", "serve", str(printing)), exported, expected)
    assert (result.state, result.reader) == ("equal", "other 5"), result.found
