"""``gemfit data`` hands a pack, or the pack of a run, to the train extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import PackReference, Plan
from gemfit_launch.cli import main

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack; rm -rf ~"
    folder.mkdir()
    (folder / "manifest.json").touch()
    return folder


@pytest.fixture
def run(tmp_path: Path, plan: Plan, pack: Path) -> RunDir:
    named = plan.model_copy(update={"pack": PackReference(fingerprint="f" * 32, folder=str(pack))})
    return RunDir.create(tmp_path / "run", named)


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("data")


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["inspect"], ["--split", "train", "--row", "0"]),
        (
            ["inspect", "--row", "all", "--split", "validation", "--json"],
            ["--split", "validation", "--row", "all", "--json"],
        ),
        (
            ["inspect", "--document", "7", "--all", "--no-color"],
            ["--split", "train", "--document", "7", "--all", "--no-color"],
        ),
        (["stats"], []),
        (["stats", "--plot", "x.png", "--json"], ["--plot", "x.png", "--json"]),
        (["verify", "--json"], ["--json"]),
    ],
)
def test_options_are_passed_on_and_so_is_the_ending(
    given: list[str], passed: list[str], pack: Path, calls: Calls, cli: Cli
) -> None:
    verb, *options = given
    assert cli("data", verb, pack, *options).exit_code == ExitCode.FAILED
    assert calls == [("gemfit.data.inspect", [verb, str(pack), *passed])]


def test_a_run_stands_for_its_pack(run: RunDir, pack: Path, calls: Calls, cli: Cli) -> None:
    cli("data", "verify", run.root)
    assert calls == [("gemfit.data.inspect", ["verify", str(pack)])]


def test_a_run_without_its_pack_says_where_the_pack_was(
    run: RunDir, pack: Path, calls: Calls, cli: Cli
) -> None:
    (pack / "manifest.json").unlink()
    result = cli("data", "stats", run.root)
    assert (result.exit_code, calls) == (2, [])
    assert f"its pack {pack} does not exist" in result.stderr


def test_a_folder_that_is_neither_is_refused(tmp_path: Path, cli: Cli) -> None:
    result = cli("data", "inspect", tmp_path)
    assert result.exit_code == 2
    assert "neither a pack (no manifest.json) nor a run (no plan.json)" in result.stderr


@pytest.mark.parametrize("verb", ["blame", "inspect", "stats", "verify"])
def test_help_of_each_has_an_example(verb: str, cli: Cli) -> None:
    output = cli("data", verb, "--help").output
    assert f"Example:\n    gemfit data {verb}" in output


@pytest.mark.parametrize("verb", ["blame", "inspect", "stats", "verify"])
def test_folders_complete(verb: str) -> None:
    completer = ShellComplete(main, {}, "gemfit", "_GEMFIT_COMPLETE")
    (item,) = completer.get_completions(["data", verb], "ru")
    assert (item.type, item.value) == ("dir", "ru")


def test_without_the_train_extra_its_installation_is_named(
    pack: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit_launch.runs.python_module.find_spec", lambda name: None)
    result = cli("data", "verify", pack)
    assert result.exit_code == 2
    assert "pip install '/path/to/gemfit[train]'" in result.stderr


def test_it_is_a_group_of_four() -> None:
    assert isinstance(main, click.Group)
    group = main.get_command(click.Context(main), "data")
    assert isinstance(group, click.Group)
    assert sorted(group.commands) == ["blame", "inspect", "stats", "verify"]
