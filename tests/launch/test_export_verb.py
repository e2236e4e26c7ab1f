"""``gemfit export`` hands its work to the train extra."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from gemfit.rundir import RunDir

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("export")


def test_export_goes_to_the_run_folder_by_default(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("export", run.root).exit_code == 1
    cli("export", run.root, "--checkpoint", 20, "--out", "there", "--json")
    cli("export", run.root, "--checkpoint", "best")
    assert calls == [
        ("gemfit.export.export", [str(run.root), "--out", str(run.export)]),
        ("gemfit.export.export", [str(run.root), "--out", "there", "--checkpoint", "20", "--json"]),
        ("gemfit.export.export", [str(run.root), "--out", str(run.export), "--checkpoint", "best"]),
    ]


def test_options_of_the_module_are_options_of_the_verb(run: RunDir, calls: Calls, cli: Cli) -> None:
    cli("export", run.root, "--adapter", "--dtype", "float32", "--shard-gb", 2)
    assert calls[0][1][3:] == ["--adapter", "--dtype", "float32", "--shard-gb", "2.0"]


def test_a_step_that_is_neither_a_number_nor_the_best_is_refused(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("export", run.root, "--checkpoint", "newest").exit_code == 2
    assert calls == []


def test_without_the_train_extra_its_installation_is_named(
    run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit_launch.runs.python_module.find_spec", lambda name: None)
    result = cli("export", run.root)
    assert result.exit_code == 2
    assert "pip install '/path/to/gemfit[train]'" in result.stderr


def test_a_check_exports_first_and_compares_then(
    run: RunDir, calls: Calls, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def ask(module: str, argv: list[str]) -> str:
        asked.append([module, *argv])
        return "exported\n"

    monkeypatch.setattr("gemfit_launch.verbs.export.ask_module", ask)
    assert cli("export", run.root, "--check", "--dtype", "float32", "--json").exit_code == 1
    assert asked == [["gemfit.export.export", str(run.root), "--out", str(run.export), "--dtype", "float32"]]
    assert calls == [("gemfit.export_check", [str(run.root), str(run.export), "--json"])]


def test_a_folder_that_exists_is_checked_as_it_is(run: RunDir, calls: Calls, cli: Cli) -> None:
    run.export.mkdir()
    (run.export / "config.json").touch()
    python = run.root / "python"
    python.touch()
    cli("export", run.root, "--check", "--checkpoint", 20, "--python", python)
    options = ["--checkpoint", "20", "--python", str(python)]
    assert calls == [("gemfit.export_check", [str(run.root), str(run.export), *options])]
    refused = cli("export", run.root, "--check", "--adapter")
    assert refused.exit_code == 2
    assert "so --adapter has no effect" in refused.stderr
    assert "give --check with it" in cli("export", run.root, "--python", python).stderr


def test_gguf_options_without_effect_are_refused(run: RunDir, calls: Calls, cli: Cli) -> None:
    converter = run.root / "convert_hf_to_gguf.py"
    converter.touch()
    cli("export", run.root, "--format", "gguf", "--converter", converter)
    assert calls[0][1][3:] == ["--format", "gguf", "--converter", str(converter)]
    gguf = ("export", run.root, "--format", "gguf")
    assert "without --format gguf" in cli(*gguf, "--check").stderr
    assert "leave --shard-gb out" in cli(*gguf, "--shard-gb", 2).stderr
    assert "with --format gguf only" in cli("export", run.root, "--converter", converter).stderr
    assert "give --check or --format gguf with it" in cli("export", run.root, "--timeout", 5).stderr
    assert len(calls) == 1
    cli(*gguf, "--timeout", 5)
    assert calls[1][1][3:] == ["--format", "gguf", "--timeout", "5.0"]
