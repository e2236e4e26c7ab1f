"""``gemfit card``, ``chat`` and ``serve`` hand their work on: to the train extra, or to a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.rundir import RunDir
from gemfit_launch.runs import serve

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("card", "chat")


@pytest.fixture
def exported(run: RunDir) -> Path:
    run.export.mkdir()
    (run.export / "config.json").write_text('{"dtype": "bfloat16"}')
    return run.export


def install(monkeypatch: pytest.MonkeyPatch, *packages: str, scripts: tuple[str, ...] = ()) -> None:
    """Let exactly these packages, and these commands on PATH, be there."""
    monkeypatch.setattr(serve, "_is_there", packages.__contains__)
    found = {script: f"/somewhere/{script}" for script in scripts}
    monkeypatch.setattr("gemfit_launch.runs.serve.shutil.which", found.get)


def test_card_passes_on_what_is_stated(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("card", run.root).exit_code == 1
    cli(
        "card", run.root, "--checkpoint", 20, "--language", "en", "--language", "de", "--pue", "1.2", "--json"
    )
    assert calls == [
        ("gemfit.modelcard.card", [str(run.root)]),
        (
            "gemfit.modelcard.card",
            [
                str(run.root),
                "--checkpoint",
                "20",
                "--language",
                "en",
                "--language",
                "de",
                "--pue",
                "1.2",
                "--json",
            ],
        ),
    ]


def test_card_is_of_a_run(tmp_path: Path, calls: Calls, cli: Cli) -> None:
    assert (cli("card", tmp_path).exit_code, calls) == (2, [])


def test_chat_passes_on_an_empty_system_message_and_a_dashed_one(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("chat", run.root, "--system", "", "--checkpoint", "base").exit_code == 1
    cli("chat", run.root, "--system=-x")
    assert calls == [
        ("gemfit.chat", [str(run.root), "--system", "", "--checkpoint", "base"]),
        ("gemfit.chat", [str(run.root), "--system=-x"]),
    ]


def test_chat_answers_one_message_and_json_is_for_that_alone(run: RunDir, calls: Calls, cli: Cli) -> None:
    cli("chat", run.root, "--message", "hello; rm -rf ~", "--max-new-tokens", 5, "--json")
    message = ["--message", "hello; rm -rf ~"]
    assert calls == [("gemfit.chat", [str(run.root), "--max-new-tokens", "5", *message, "--json"])]
    assert cli("chat", run.root, "--json").exit_code == 2


def test_serve_shows_the_command_of_the_server_that_is_there(
    exported: Path, run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *serve.OF_TRANSFORMERS)
    printed = json.loads(cli("serve", run.root, "--port", "9000", "--json").stdout)
    assert Path(printed["argv"][0]).name == "transformers"
    options = ["--host", "127.0.0.1", "--port", "9000", "--dtype", "bfloat16"]
    assert printed["argv"][1:] == ["serve", str(exported), *options]
    assert printed["url"] == "http://127.0.0.1:9000/v1"
    install(monkeypatch, *serve.OF_TRANSFORMERS, scripts=("vllm",))
    assert cli("serve", run.root).stdout.startswith("/somewhere/vllm serve ")


def test_serve_needs_a_server_and_says_how_to_get_one(
    exported: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "transformers", "uvicorn", "openai")  # fastapi is missing
    result = cli("serve", exported)
    assert result.exit_code == 2
    assert "pip install 'transformers[serving]'" in result.stderr


def test_serve_says_when_the_export_is_not_of_the_newest_checkpoint(
    exported: Path, run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, scripts=("vllm",))
    run.checkpoint(8).mkdir()
    os.utime(exported / "config.json", (1, 1))
    assert "newer than its export" in cli("serve", run.root).stderr
    os.utime(run.checkpoint(8), (0, 0))
    assert not cli("serve", run.root).stderr


def test_serve_refuses_a_folder_that_is_neither(tmp_path: Path, cli: Cli) -> None:
    result = cli("serve", tmp_path)
    assert result.exit_code == 2
    assert "neither a model folder (no config.json) nor a run (no plan.json)" in result.stderr


def test_serve_says_how_to_export_first(run: RunDir, cli: Cli) -> None:
    result = cli("serve", run.root)
    assert result.exit_code == 2
    assert f"gemfit export {run.root}" in result.stderr


def test_serve_becomes_the_server_when_asked(
    exported: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, scripts=("vllm",))
    started: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: started.append((path, argv)))
    cli("serve", exported, "--exec")
    [(path, argv)] = started
    assert (path, argv[:2]) == ("/somewhere/vllm", ("/somewhere/vllm", "serve"))
