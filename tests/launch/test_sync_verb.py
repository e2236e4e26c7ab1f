"""``gemfit sync``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir

Cli = Callable[..., Result]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Modules that the verb would have run."""
    made: list[tuple[str, list[str]]] = []

    def record(module: str, arguments: list[str]) -> ExitCode:
        made.append((module, arguments))
        return ExitCode.STOPPED

    monkeypatch.setattr("gemfit_launch.verbs.sync.run_module", record)
    return made


def test_runs_and_trackers_are_handed_on_and_the_ending_too(
    run: RunDir, calls: list[tuple[str, list[str]]], cli: Cli
) -> None:
    result = cli("sync", run.root, run.root, "--to", "wandb", "--to", "mlflow", "--json")
    assert result.exit_code == ExitCode.STOPPED
    handed = [str(run.root), str(run.root), "--to", "wandb", "--to", "mlflow", "--json"]
    assert calls == [("gemfit.tracking", handed)]


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, calls: list[tuple[str, list[str]]], cli: Cli
) -> None:
    result = cli("sync", tmp_path)
    assert (result.exit_code, calls) == (ExitCode.USER_ERROR, [])
    assert "is not a run folder" in result.stderr


def test_an_unknown_tracker_is_refused(run: RunDir, cli: Cli) -> None:
    assert cli("sync", run.root, "--to", "tensorboard").exit_code == ExitCode.USER_ERROR
