"""Hooks of a job over files that cannot be read or replaced: a verdict or a line, never a traceback."""

from __future__ import annotations

import sys

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.slurm.node import job, node, pack_job
from launch.slurm_job.hooks import answered


def call(monkeypatch: pytest.MonkeyPatch, main: object, *words: object) -> int:
    assert callable(main)
    monkeypatch.setattr(sys, "argv", ["hook", *map(str, words)])
    return int(main())


@pytest.mark.parametrize("file", ["accelerate_file", "recipe_file", "plans"])
def test_a_folder_in_place_of_a_file_is_in_the_verdict(
    file: str, run: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = getattr(run, file)
    if file == "plans":
        path.touch()  # and a file in place of a folder
    else:
        path.mkdir()
    code = call(monkeypatch, job.main, "begin", run.root, "--max-restarts", 1)
    assert (code, answered(capfd)) == (ExitCode.FAILED, ["leave"])
    verdict = run.verdict()
    assert verdict is not None
    assert f"{path}: " in verdict.reason


@pytest.mark.parametrize("verb", ["begin", "end"])
def test_a_verdict_that_cannot_be_written_is_named(
    verb: str, run: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run.plan_file.write_text("{")
    run.verdict_file.mkdir()
    code = call(monkeypatch, job.main, verb, run.root, "--max-restarts", 1)
    out, err = capfd.readouterr()
    assert code == ExitCode.FAILED
    assert f"leave {code:d}" in out
    assert f"{run.verdict_file}: is a directory" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("main", "words", "code"),
    [
        (node.main, ["--attempt", 1, "--host", "n1", "--port", 1], ExitCode.USER_ERROR),
        (pack_job.main, [], ExitCode.USER_ERROR),
        (job.main, ["--max-restarts", 1], ExitCode.FAILED),
    ],
)
def test_a_damaged_plan_is_a_line_in_the_log(
    main: object,
    words: list[object],
    code: int,
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run.plan_file.write_text("{")
    verbs = {node.main: [], pack_job.main: ["end"], job.main: ["limit"]}
    assert call(monkeypatch, main, *verbs[main], run.root, *words) == code  # type: ignore[index]
    err = capfd.readouterr().err
    assert f"{run.plan_file}: " in err
    assert "Traceback" not in err
