"""A run folder from a stranger: pickles, commands and templates in it are not run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from gemfit.checkpoint.integrity import MANIFEST, MANIFEST_DIGEST, digest_files, manifest_digest
from gemfit.data.inspect.__main__ import main as inspect_pack
from gemfit.data.render.template_segments import chat_template
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.errors import UserError
from gemfit.export.export import main as export
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest
from gemfit_launch.planning.replan import replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.local import environment
from security.stranger import STEP, Command, change, cli


def plant_pickle(run: RunDir, victim: Path) -> None:
    """In the metadata of the checkpoint, with manifests that match."""
    folder = run.checkpoint(STEP)
    (folder / ".metadata").write_bytes(pickle.dumps(Command(victim)))
    manifest = CheckpointManifest.read(folder / MANIFEST)
    files = digest_files(folder, [folder / file.path for file in manifest.files])
    text = manifest.model_copy(update={"files": tuple(files)}).to_json().encode()
    (folder / MANIFEST).write_bytes(text)
    (folder / MANIFEST_DIGEST).write_bytes(manifest_digest(text))


def test_a_pickle_in_the_metadata_of_a_checkpoint(
    run: RunDir, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_pickle(run, victim)
    assert cli("checkpoints", run.root).exit_code == 0
    assert export([str(run.root), "--out", str(run.export)]) == 2
    assert "names posix.system" in capsys.readouterr().err
    assert not victim.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", ["sh", "-c", "touch VICTIM"]),
        ("env", {"LD_PRELOAD": "/evil.so", "PYTHONSTARTUP": "/evil.py", "NUMBA_CACHE_DIR": "/evil"}),
        ("accelerate", {"main_training_function": "evil"}),
    ],
)
def test_command_and_environment_of_the_plan_are_named_and_not_used(
    run: RunDir, field: str, value: Any
) -> None:
    own = getattr(run.plan(), field)
    change(run.plan_file, lambda plan: plan.update({field: value}))
    result = cli("resume", run.root, "--dry-run")
    assert result.exit_code == 0
    assert f"its {field} is not what gemfit makes of its recipe" in result.stderr
    replanned = replan(run.plan(), Request(name=""), Ranks(), "plan.json")
    assert getattr(replanned, field) == own
    assert not environment(replanned, {}, attempt=1, port=1).keys() & {"LD_PRELOAD", "NUMBA_CACHE_DIR"}


def test_a_chat_template_that_leaves_its_sandbox(run: RunDir, victim: Path) -> None:
    tokenizer = load_tokenizer(str(run.root.parent / "pack" / "tokenizer"))
    tokenizer.chat_template = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(victim) + "') }}{{ messages[0].content }}"
    )
    with pytest.raises(UserError, match=r"template cannot be followed: .*unsafe"):
        chat_template(tokenizer)
    assert not victim.exists()


def test_a_pack_with_a_pickle_and_one_with_paths(
    run: RunDir, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = run.root.parent / "pack"
    (pack / "train" / "batches.npy").write_bytes(pickle.dumps(Command(victim)))
    assert inspect_pack(["inspect", str(pack)]) == 2
    assert "batches.npy: cannot be read" in capsys.readouterr().err
    change(pack / "manifest.json", lambda value: value["files"][0].update(path="../victim"))
    assert inspect_pack(["inspect", str(pack)]) == 2
    assert "files.0.path" in capsys.readouterr().err
    assert not victim.exists()


def test_compiled_code_in_the_folder_is_not_looked_for(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gemfit.data.compiled import compiled_folder  # noqa: PLC0415

    (run.root / "numba").mkdir()
    (run.root / "__pycache__").mkdir()
    monkeypatch.chdir(run.root)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiled_folder.cache_clear()
    try:
        assert compiled_folder().is_relative_to(tmp_path / "cache")
    finally:
        compiled_folder.cache_clear()
