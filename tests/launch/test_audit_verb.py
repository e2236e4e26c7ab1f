"""``gemfit audit`` hands its options to the train extra, and ends as that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("audit")


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], []),
        (["--checkpoint", "base", "--checkpoint", "best"], ["--checkpoint", "base", "--checkpoint", "best"]),
        (["--suite", "crisis", "--json"], ["--suite", "crisis", "--json"]),
        (
            ["--judge", "python -c 'x'", "--judge-timeout", "5"],
            ["--judge", "python -c 'x'", "--judge-timeout", "5.0"],
        ),
        (["--system", "--odd", "--fail-on", "warn"], ["--system=--odd", "--fail-on", "warn"]),
        (["--limit", "3", "--max-new-tokens", "9"], ["--limit", "3", "--max-new-tokens", "9"]),
        (["--batch-size", "2", "--seed", "0"], ["--batch-size", "2", "--seed", "0"]),
        (["--prompts", "mine.jsonl"], ["--prompts", "mine.jsonl"]),
    ],
)
def test_options_are_passed_on_and_so_is_the_ending(
    given: list[str], passed: list[str], run: RunDir, calls: Calls, cli: Cli
) -> None:
    assert cli("audit", run.root, *given).exit_code == ExitCode.FAILED
    assert calls == [("gemfit.audit", [str(run.root), *passed])]


def test_the_list_needs_no_run(calls: Calls, cli: Cli) -> None:
    cli("audit", "--list")
    assert calls == [("gemfit.audit", ["--list"])]


def test_without_a_run_there_is_nothing_to_audit(calls: Calls, cli: Cli, tmp_path: Path) -> None:
    for arguments, words in (([], "needs the folder of a run"), ([tmp_path], "is not a run folder")):
        result = cli("audit", *arguments)
        assert (result.exit_code, calls) == (2, [])
        assert words in result.stderr


def test_help_has_an_example(cli: Cli) -> None:
    assert "Example:\n    gemfit audit runs/first" in cli("audit", "--help").output


def test_without_the_train_extra_its_installation_is_named(
    run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit_launch.runs.python_module.find_spec", lambda name: None)
    result = cli("audit", run.root)
    assert result.exit_code == 2
    assert "pip install '/path/to/gemfit[train]'" in result.stderr
