"""Each file of a run and its pack, damaged in each way: a command answers, or its error names the file.

Which command meets which damage rotates; ``trials`` has them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from damage.damages import any_damages, key_damages, remove
from damage.run_files import FILES, FOLDERS, is_known, unknown_files
from damage.trials import CHANGING, JOB, LOOKING, Trials, answer_of_slurm
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.upload.spool import Spool
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.records.job_attempts import AttemptFiles
from gemfit_launch.slurm.records.job_files import JobFiles

EVERY = 7
"""Of the damages to keys, one in so many is tried."""
ARGUMENTS = {"attempt": 1, "step": 2, "rank": 0, "kind": "train", "job": 7, "name": "x"}
"""For the parameters of methods that give a path."""


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("damage")
        for name, value in (JOB | {"GEMFIT_CACHE": str(root / "cache")}).items():
            patch.setenv(name, value)
        patch.setattr(job, "SUBMISSION_SECONDS", 0.0)
        patch.setattr(job, "PACK_SECONDS", 0.0)
        patch.setattr(commands, "_run", answer_of_slurm)
        patch.chdir(root)
        yield Trials(root)


def test_every_file_with_every_damage(trials: Trials) -> None:
    found, number, looking, changing = [], 0, list(LOOKING), list(CHANGING)
    for place, file in enumerate(trials.files):
        for name, damage in any_damages(trials.content(file)):
            number += 1
            command = looking[(number + place) % len(looking)]
            if number % 10 == 0:  # these need a new copy of all files
                command = changing[number // 10 % len(changing)]
            if problem := trials.problem(file, damage, command):
                found.append((file, name, command, problem))
    assert found == []


def test_every_json_file_with_damaged_keys(trials: Trials) -> None:
    found, number, looking = [], 0, list(LOOKING)
    for file in trials.files:
        for name, damage in key_damages(trials.content(file)):
            number += 1
            if number % EVERY:
                continue
            command = looking[number // EVERY % len(looking)]
            if problem := trials.problem(file, damage, command):
                found.append((file, name, command, problem))
    assert found == []


def test_the_table_knows_every_path_and_the_run_has_every_file(trials: Trials) -> None:
    names = [file.removeprefix("run/") for file in trials.files if file.startswith("run/")]
    assert unknown_files(trials.run) == []
    assert [pattern for pattern in FILES if not any(fnmatchcase(name, pattern) for name in names)] == []
    assert [path for path in declared_paths(RunDir(trials.run)) if not _is_listed(path)] == []


def test_an_exception_and_an_error_without_a_name_are_noticed(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> RunDir:
        raise error

    monkeypatch.setattr(RunDir, "open", lambda root: fail(KeyError("x")))
    assert trials.problem("run/attempt", remove, "logs").startswith("KeyError at ")
    monkeypatch.setattr(RunDir, "open", lambda root: fail(UserError("is damaged")))
    assert trials.problem("run/attempt", remove, "logs").startswith("the file is not named: ")


def _is_listed(path: str) -> bool:
    hidden = any(part.startswith(".") for part in Path(path).parts)  # a save that has not ended
    return hidden or is_known(path) or any(fnmatchcase(path, folder) for folder in FOLDERS)


def declared_paths(run: RunDir) -> list[str]:
    """What the classes that name files of a run call their paths, relative to the run folder."""
    found = []
    for holder in (run, AttemptFiles(run, 1), JobFiles(run), Spool.of(run)):
        for name, member in inspect.getmembers(type(holder)):
            if name.startswith("_"):
                continue
            function = member.fget if isinstance(member, property) else member
            if inspect.get_annotations(function).get("return") != "Path" if callable(function) else True:
                continue
            found.append(_path(run, holder, name, function))
    return sorted({path.relative_to(run.root).as_posix().replace("./", "") for path in found if path})


def _path(run: RunDir, holder: object, name: str, function: object) -> Path | None:
    assert callable(function)
    value = getattr(holder, name)
    if isinstance(value, Path):
        return value if value != run.root else None
    wanted = [one for one in inspect.signature(value).parameters if one != "self"]
    if "folder" in wanted:
        return Path(value(run.spool / "step-00000002"))
    return Path(value(*(ARGUMENTS[one] for one in wanted))) if set(wanted) <= set(ARGUMENTS) else None
