"""Limits of the machine end a command with a reason and a way out, never with a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from launch.conftest import Cli

GEMFIT = [sys.executable, "-m", "gemfit_launch.cli"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "x" * 300),
        ("plan", "debug/cpu-tiny", "--data", "x" * 300),
        ("plan", "debug/cpu-tiny", "--data", "x/" * 3000),
        ("status", "x" * 300),
        ("recipes", "check", "x" * 5000),
        ("submit", "debug/cpu-tiny", "--site", "x" * 300),
    ],
    ids=lambda arguments: " ".join(argument[:20] for argument in arguments),
)
def test_a_name_that_is_too_long_is_an_error_of_the_user(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run([*GEMFIT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "too long" in done.stderr or "there is no" in done.stderr


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.EDQUOT]
)
def test_an_error_of_a_file_system_is_named_with_its_place(
    number: int, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> RunDir:
        raise OSError(number, os.strerror(number), f"{root}/plan.json")

    monkeypatch.setattr(RunDir, "open", fails)
    folder = tmp_path / ("a folder with a long name " * 4)
    folder.mkdir()
    result = cli("logs", folder)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {folder}/plan.json: {os.strerror(number).lower()}; ")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOTDIR])
def test_an_error_without_a_path_keeps_its_traceback(
    number: int, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> RunDir:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(RunDir, "open", fails)
    result = cli("logs", tmp_path)
    assert isinstance(result.exception, OSError)
    assert result.exception.errno == number


@pytest.mark.parametrize("name", ["a\x1b[31mb", b"a\x1b[31mb", "a\rb\nc\x85d"])
def test_control_characters_of_a_path_do_not_reach_the_terminal(
    name: str | bytes, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> RunDir:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(RunDir, "open", fails)
    of_system = cli("logs", tmp_path).stderr
    monkeypatch.undo()
    of_user = cli("logs", os.fsdecode(name)).stderr
    for shown in (of_system, of_user):
        assert shown.startswith("error: a⟨U+")
        assert all(char.isprintable() for line in shown.split("\n") for char in line)


def test_a_folder_in_place_of_a_file_is_named(submitted: RunDir, cli: Cli) -> None:
    submitted.attempt_file.mkdir()
    assert cli("logs", submitted.root).exit_code == 0  # damaged: the records of attempts count
    with pytest.raises(IsADirectoryError):
        submitted.begin_attempt()
    submitted.plan_file.unlink()
    submitted.plan_file.mkdir()
    result = cli("logs", submitted.root)
    assert (result.exit_code, "runs/first: is not a run folder" in result.stderr) == (2, True)


def test_a_full_disk_behind_stdout_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*GEMFIT, "recipes", "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: no space left on device; free some space\n"


def test_a_terminal_that_cannot_encode_shows_escapes(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    for arguments in (["recipes", "list"], ["recipes", "show", "debug/cpu-tiny"], ["plan", "naïve—name"]):
        done = subprocess.run([*GEMFIT, *arguments], env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 2)
