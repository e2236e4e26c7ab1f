"""``gemfit export`` and ``generate`` hand their work to the train extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.rundir import RunDir

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("model")


def test_export_goes_to_the_run_folder_unless_told_otherwise(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("export", run.root).exit_code == 1
    cli("export", run.root, "--step", 20, "--out", "there", "--json")
    cli("export", run.root, "--step", "best")
    assert calls == [
        ("gemfit.export.export", [str(run.root), "--out", str(run.export)]),
        ("gemfit.export.export", [str(run.root), "--out", "there", "--step", "20", "--json"]),
        ("gemfit.export.export", [str(run.root), "--out", str(run.export), "--step", "best"]),
    ]


def test_a_step_that_is_neither_a_number_nor_the_best_is_refused(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("export", run.root, "--step", "newest").exit_code == 2
    assert calls == []


def test_generate_takes_a_model_folder_or_an_exported_run(run: RunDir, calls: Calls, cli: Cli) -> None:
    run.export.mkdir()
    (run.export / "config.json").touch()
    for folder in (run.root, run.export):
        assert cli("generate", folder, "hello; rm -rf ~", "--max-new-tokens", 5).exit_code == 1
    expected = [str(run.export), "--message", "hello; rm -rf ~", "--max-new-tokens", "5"]
    assert calls == 2 * [("gemfit.export.generate", expected)]


def test_generate_says_how_to_export_first(run: RunDir, calls: Calls, cli: Cli) -> None:
    result = cli("generate", run.root, "hello")
    assert (result.exit_code, calls) == (2, [])
    assert f"gemfit export {run.root}" in result.stderr


def test_generate_refuses_a_folder_that_is_neither(tmp_path: Path, cli: Cli) -> None:
    result = cli("generate", tmp_path, "hello")
    assert result.exit_code == 2
    assert "neither a model folder (no config.json) nor a run (no plan.json)" in result.stderr


@pytest.mark.parametrize("verb", ["export", "generate"])
def test_without_the_train_extra_its_installation_is_named(
    verb: str, run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.export.mkdir()
    (run.export / "config.json").touch()
    monkeypatch.setattr("gemfit_launch.runs.python_module.find_spec", lambda name: None)
    result = cli(verb, run.root, *(["hello"] if verb == "generate" else []))
    assert result.exit_code == 2
    assert "pip install 'gemfit[train]'" in result.stderr
