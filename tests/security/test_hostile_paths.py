"""A run folder from a stranger: links, pipes, and names that lead out of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.errors import ExitCode, UserError
from gemfit.publish.push import main as push
from gemfit.publish.send_spool import _refuse_damaged
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import FileDigest
from gemfit.upload.spool import Push, ReadyPush, Spool
from security.stranger import ESCAPE, STEP, change, cli

SECRET = b"the private key"


def plant_spool(run: RunDir, name: str) -> ReadyPush:
    """A push that is ready, of a file called ``name`` with the content of ``victim``."""
    files = Spool.files(Spool.of(run).folder(STEP))
    files.mkdir(parents=True)
    file = FileDigest.model_construct(path=name, bytes=len(SECRET), xxh3="0" * 32)
    pushed = Push(
        step=STEP,
        repo="user/name",
        private=True,
        branch="main",
        tag=False,
        merge_adapter=True,
        multimodal=False,
        message="Step 2",
    )
    ready = ReadyPush.model_construct(push=pushed, files=(file,))
    Spool.manifest_file(files.parent).write_text(ready.to_json())
    return ready


@pytest.mark.parametrize(
    "place", ["metrics.jsonl", "lock", "logs", "logs/attempt-2.log", "checkpoints", "hub", "trackers/lock"]
)
def test_a_link_out_of_the_folder_is_not_followed(run: RunDir, victim: Path, place: str) -> None:
    link, target = run.root / place, victim if "." in place or "lock" in place else run.root.parent / "pack"
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    for verb in ("resume", "checkpoints", "sync", "report", "export", "eval", "logs", "stop", "push"):
        result = cli(verb, run.root)
        assert result.exit_code == 2, verb
        assert f"{place} is a link to {target}, out of the folder" in result.stderr
    assert not victim.exists()


def test_a_link_inside_of_the_folder_and_a_link_to_it_are_fine(run: RunDir, tmp_path: Path) -> None:
    (run.root / "newest").symlink_to(run.checkpoint(STEP))
    (tmp_path / "link").symlink_to(run.root)
    assert cli("checkpoints", tmp_path / "link").exit_code == 0


def test_a_pipe_in_place_of_a_file_is_named(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(run.stop_file)
    assert "stop is a pipe, socket or device" in cli("status", run.root).stderr
    monkeypatch.chdir(run.root.parent)
    shutil.copytree(run.root, "runs/good", ignore=shutil.ignore_patterns("stop"))
    run.root.rename("runs/bad")
    shown = cli("status", "--json")
    states = {Path(one["run"]).name: one["state"] for one in json.loads(shown.stdout)}
    assert states == {"bad": "damaged", "good": "stopped"}


@pytest.mark.parametrize("name", ["../../../../victim", "/etc/passwd", "a//b", "a/../../b", "\x1b[2J", ""])
def test_a_spool_manifest_that_names_files_elsewhere(
    run: RunDir, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_spool(run, name)
    assert push(["--spooled", str(run.root)]) == 2
    shown = capsys.readouterr().err
    assert "manifest.json: files.0.path" in shown
    assert "\x1b" not in shown


def test_a_spooled_file_that_is_a_link(run: RunDir, victim: Path) -> None:
    ready = plant_spool(run, "model.safetensors")
    victim.write_bytes(SECRET)
    (Spool.files(Spool.of(run).folder(STEP)) / "model.safetensors").symlink_to(victim)
    with pytest.raises(UserError, match=r"model\.safetensors is a link to .*victim, out of the folder"):
        _refuse_damaged(Spool.of(run), ready)


def test_names_that_are_options_paths_and_lines(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("step-evil", "step-00000001\n--help", "replaced-x", f"step-{ESCAPE}"):
        (run.checkpoints / name).mkdir()
    (run.spool / "step-evil").mkdir(parents=True)
    found = cli("checkpoints", run.root, "--json")
    assert [one["step"] for one in json.loads(found.stdout)] == [STEP]
    assert run.spooled_steps == []
    handed: list[str] = []

    def record(module: str, argv: list[str]) -> ExitCode:
        handed.append(argv[1])
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.verbs.data.run_module", record)
    monkeypatch.chdir(tmp_path)
    Path("pack").rename("--help")
    change(run.plan_file, lambda plan: plan["pack"].update(folder="--help"))
    cli("data", "inspect", run.root)
    run.root.rename("-x")
    cli("data", "inspect", "--", "-x")
    assert handed == 2 * [str(tmp_path / "--help")]


def test_a_link_deep_in_the_files_of_a_tracker(run: RunDir, victim: Path) -> None:
    deep = run.trackers / "mlflow" / "0" / "a"
    deep.mkdir(parents=True)
    (deep / "loss").symlink_to(victim)
    with pytest.raises(UserError, match="loss is a link to"):
        refuse_foreign_files(run.trackers / "mlflow")


def test_folders_without_an_end_are_named(run: RunDir) -> None:
    deep = run.trackers / "mlflow" / "/".join("a" * 120)
    deep.mkdir(parents=True)
    refuse_foreign_files(run.root, levels=2)
    with pytest.raises(UserError, match="mlflow holds folders that are nested more than 100 levels deep"):
        refuse_foreign_files(run.trackers / "mlflow")
