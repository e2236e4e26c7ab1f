"""`gemfit pack`: input that is no file, and what is said of folders."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result

from gemfit.errors import ExitCode
from gemfit.schemas.pack_job import PackJob
from gemfit_launch.cli import main
from launch.conftest import Cli


@pytest.fixture(autouse=True)
def jobs(packed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[PackJob]:
    """The jobs that the builder would have been called with."""
    built: list[PackJob] = []

    def build(module: str, arguments: list[str]) -> ExitCode:
        built.append(PackJob.read(Path(arguments[0])))
        packed(built[-1])
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.run_module", build)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.require_train_extra", lambda verb: None)
    return built


def pack_input(text: bytes) -> Result:
    return CliRunner().invoke(main, ["pack", "debug/cpu-tiny", "--data", "-"], input=text)


def test_standard_input_is_kept_and_known_by_its_content(
    conversations: Path, cli: Cli, jobs: list[PackJob], empty_cache: Path
) -> None:
    result = pack_input(conversations.read_bytes())
    assert result.exit_code == 0, result.output
    path = Path(jobs[0].files[0].path)
    assert path.parent == empty_cache / "input"
    assert path.read_bytes() == conversations.read_bytes()
    assert f"--data {path}" in result.stderr
    # Equal content, from a file or once more from a pipe, is the same pack.
    for again in (cli("pack", "debug/cpu-tiny", "--data", conversations), pack_input(path.read_bytes())):
        assert "already packed" in again.stderr
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("encode", "suffix"),
    [
        (gzip.compress, ".jsonl.gz"),
        (lambda text: b" [" + b",".join(text.split(b"\n")[:-1]) + b"]", ".json"),
        (lambda text: text, ".jsonl"),
    ],
)
def test_the_kind_of_a_stream_is_that_of_its_content(
    encode: Callable[[bytes], bytes], suffix: str, conversations: Path, jobs: list[PackJob]
) -> None:
    result = pack_input(encode(conversations.read_bytes()))
    assert result.exit_code == 0, result.output
    assert jobs[0].files[0].path.endswith(suffix)


def test_a_named_pipe_is_read_once(
    conversations: Path, cli: Cli, jobs: list[PackJob], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(conversations.read_bytes()))
    writer.start()
    result = cli("pack", "debug/cpu-tiny", "--data", pipe)
    writer.join()
    assert result.exit_code == 0, result.output
    assert jobs[0].input_bytes == conversations.stat().st_size


def test_empty_input_leaves_nothing(empty_cache: Path) -> None:
    result = pack_input(b"")
    assert result.exit_code == ExitCode.USER_ERROR
    assert "the input is empty" in result.stderr
    assert not list((empty_cache / "input").iterdir())


@pytest.mark.parametrize("verb", [("plan",), ("run", "--device", "cpu", "--run", "runs/a")])
def test_other_verbs_say_that_a_pipe_can_be_read_once(verb: tuple[str, ...], cli: Cli) -> None:
    result = cli(verb[0], "debug/cpu-tiny", "--data", "-", *verb[1:])
    assert result.exit_code == ExitCode.USER_ERROR
    assert "can be read once only; `gemfit pack --data -` keeps a copy" in result.stderr


def test_a_folder_says_what_is_read_and_passed_over(conversations: Path, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    conversations.rename(folder / "a.jsonl")
    (folder / "b.docx").write_text("x")
    note = f"{folder}: files that are read: 1 .jsonl; passed over: b.docx (unknown kind)"
    assert note in cli("pack", "debug/cpu-tiny", "--data", folder).stderr
    planned = cli("plan", "debug/cpu-tiny", "--data", folder, "--json")
    assert json.loads(planned.stdout)["data_notes"] == [note]
    shown = cli("plan", "debug/cpu-tiny", "--data", folder)
    assert "passed over: b.docx" in " ".join(shown.stdout.split())


def test_a_cache_that_cannot_be_written_is_named(conversations: Path, cli: Cli, empty_cache: Path) -> None:
    empty_cache.write_text("a file where the cache would be")
    for result in (cli("pack", "debug/cpu-tiny", "--data", conversations), pack_input(b"{}\n")):
        assert result.exit_code == ExitCode.USER_ERROR
        assert "write elsewhere (--out, or GEMFIT_CACHE)" in result.stderr


def test_a_url_is_downloaded_by_pack_only(conversations: Path, cli: Cli, jobs: list[PackJob]) -> None:
    fsspec.filesystem("memory").pipe("/verb/chats.jsonl", conversations.read_bytes())
    refused = cli("plan", "debug/cpu-tiny", "--data", "memory://verb/chats.jsonl")
    assert refused.exit_code == ExitCode.USER_ERROR
    assert "is remote; `gemfit pack --data URL` downloads it" in refused.stderr
    result = cli("pack", "debug/cpu-tiny", "--data", "memory://verb/chats.jsonl")
    assert result.exit_code == 0, result.output
    assert "memory:" not in jobs[0].to_json()


def test_a_name_that_is_not_utf_8_is_named(cli: Cli) -> None:
    for options in (("--data", "caf\udce9.jsonl"), ("--set", "data.source=caf\udce9.jsonl")):
        result = cli("plan", "debug/cpu-tiny", *options)
        assert result.exit_code == ExitCode.USER_ERROR
        assert r"caf\udce9.jsonl: the name is not UTF-8" in result.stderr
