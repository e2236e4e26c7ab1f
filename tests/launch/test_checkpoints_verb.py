"""``gemfit checkpoints``: what lies in a run folder, whole or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from click.testing import Result

from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest, FileDigest
from gemfit.schemas.plan import Plan

Cli = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    return RunDir.create(tmp_path / "run", plan)


def write(run: RunDir, step: int, *, loss: float | None = None, folder: Path | None = None) -> Path:
    folder = folder or run.checkpoint(step)
    folder.mkdir(parents=True)
    content = b"x" * 1234 * step
    (folder / "weights").write_bytes(content)
    digest = FileDigest(path="weights", bytes=len(content), xxh3=xxhash.xxh3_128_hexdigest(content))
    manifest = CheckpointManifest(
        step=step,
        cursor_row=step,
        world_size=2,
        strategy="zero3",
        plan_digest="1" * 32,
        training={},
        attempt=1,
        eval_loss=loss,
        files=(digest,),
    )
    text = manifest.to_json()
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.xxh3").write_text(xxhash.xxh3_128_hexdigest(text.encode()))
    return folder


def listed(cli: Cli, run: RunDir, *options: str) -> dict[str, dict[str, Any]]:
    result = cli("checkpoints", run.root, "--json", *options)
    return {Path(status["folder"]).name: status for status in json.loads(result.stdout)}


def test_a_table_shows_step_size_strategy_and_loss(run: RunDir, cli: Cli) -> None:
    write(run, 20, loss=2.5)
    write(run, 10)
    result = cli("checkpoints", run.root)
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines() if "zero3" in line]
    assert lines == [
        ["10", "1", "zero3", "2", "12.3", "kB", "–", "complete"],
        ["20", "1", "zero3", "2", "24.7", "kB", "2.5000", "complete"],
    ]


def test_a_missing_or_shortened_file_is_named_without_reading_any(run: RunDir, cli: Cli) -> None:
    write(run, 10)
    (write(run, 20) / "weights").write_bytes(b"short")
    (write(run, 30) / "manifest.json").unlink()
    found = listed(cli, run)
    assert found["step-00000010"]["problem"] is None
    assert found["step-00000020"]["problem"] == "weights has 5 bytes where 24,680 were written"
    assert "manifest.json: there is no such file" in found["step-00000030"]["problem"]
    assert "damaged" in cli("checkpoints", run.root).output


def test_verifying_finds_what_sizes_do_not_show_and_exits_1(run: RunDir, cli: Cli) -> None:
    write(run, 10)
    assert cli("checkpoints", run.root, "--verify").exit_code == 0
    damaged = write(run, 20) / "weights"
    damaged.write_bytes(b"y" * damaged.stat().st_size)
    assert listed(cli, run)["step-00000020"]["problem"] is None
    assert cli("checkpoints", run.root, "--verify").exit_code == 1
    found = listed(cli, run, "--verify")
    assert (found["step-00000010"]["problem"], found["step-00000010"]["verified"]) == (None, True)
    assert found["step-00000020"]["problem"] == "weights has changed since it was written"


def test_what_is_in_quarantine_is_listed_with_the_reason(run: RunDir, cli: Cli) -> None:
    aside = write(run, 10, folder=run.quarantine / "step-00000010")
    (aside / "reason.txt").write_text("a bit has changed\n")
    assert listed(cli, run)["step-00000010"]["problem"] == "in quarantine: a bit has changed"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, cli: Cli) -> None:
    result = cli("checkpoints", tmp_path)
    assert result.exit_code == 2
    assert "is not a run folder" in result.stderr
