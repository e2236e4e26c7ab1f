"""A run goes on under another strategy on another number of ranks, and past a disk that was full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gemfit.checkpoint import newest_valid
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import LedgerRecord
from gemfit_launch.cli import main

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

pytestmark = [pytest.mark.dist, pytest.mark.slow]

TWELVE = {"length__max_steps": 12, "checkpoint__every_steps": 2}
FILES_OF_ONE = 13
"""Inodes: for the folder, for a checkpoint of two ranks, and not enough for a second one."""


def resume(run: RunDir, *options: object) -> str:
    """``gemfit resume``, which must go on or end well; returns what it printed."""
    result = CliRunner().invoke(main, ["resume", str(run.root), *map(str, options)])
    assert result.exit_code in (0, 75), result.output
    return result.output


def ledger(run: RunDir) -> dict[int, tuple[int, ...]]:
    records = [LedgerRecord.model_validate_json(line) for line in run.ledger_file.read_text().splitlines()]
    return {record.step: record.rows for record in records}


@pytest.fixture(scope="module")
def uninterrupted(launch: Launch) -> Attempts:
    return launch("single", 1, **TWELVE)


def test_a_run_moves_between_strategies_and_sizes_with_the_same_rows_and_losses(
    fresh_run: Launch, uninterrupted: Attempts
) -> None:
    moved = fresh_run("fsdp2", 2, **TWELVE)
    moved.train(stop_at=3)
    run = moved.run
    assert "strategy: was fsdp2, is zero3\n" in resume(run, "--strategy", "zero3", "--stop-at", 6)
    assert "ranks: was 2, is 3\n" in resume(run, "--strategy", "ddp", "--nproc", 3, "--stop-at", 9)
    assert "ranks: was 3, is 1\n" in resume(run, "--strategy", "single")
    assert moved.verdict is not None
    assert moved.verdict.outcome == AttemptOutcome.COMPLETED
    assert [record.attempt for record in moved.steps] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert moved.losses == pytest.approx(uninterrupted.losses, rel=1e-5)
    assert ledger(run) == ledger(uninterrupted.run)
    assert [r.rows_digest for r in moved.steps] == [r.rows_digest for r in uninterrupted.steps]
    labels = [json.loads(run.earlier_plan(n).read_text())["recipe"]["strategy"]["kind"] for n in (1, 2, 3)]
    assert labels == ["fsdp2", "deepspeed", "ddp"]


@pytest.mark.usefixtures("forked_resume")
def test_a_run_goes_on_from_copies_to_one_sharded_model_and_back(
    fresh_run: Launch, uninterrupted: Attempts
) -> None:
    moved = fresh_run("fsdp2", 4, strategy__replicate=2, **TWELVE)
    moved.train(stop_at=4)
    resumed = resume(moved.run, "--set", "strategy.replicate=1", "--nproc", 2, "--stop-at", 8)
    assert "strategy: was hsdp, is fsdp2\n" in resumed
    resume(moved.run, "--set", "strategy.replicate=2", "--nproc", 4)
    assert moved.losses == pytest.approx(uninterrupted.losses, rel=1e-5)
    assert [r.rows_digest for r in moved.steps] == [r.rows_digest for r in uninterrupted.steps]
    sizes = [line["bytes"] for line in moved.lines if line["kind"] == "save"]
    assert max(sizes) < 1.1 * min(sizes), "each piece is written once, whatever the number of copies"


def test_every_step_is_in_the_ledger_as_it_was_planned(uninterrupted: Attempts) -> None:
    found = ledger(uninterrupted.run)
    assert sorted(found) == list(range(1, 13))
    assert all(len(rows) == 16 == len(set(rows)) for rows in found.values())


def test_a_save_is_measured(uninterrupted: Attempts) -> None:
    saves = [line for line in uninterrupted.lines if line["kind"] == "save"]
    assert [save["step"] for save in saves] == [2, 4, 6, 8, 10, 12]
    for save in saves:
        assert save["bytes"] > 1_000_000
        assert save["stall_seconds"] > 0
        assert save["write_seconds"] > 0


def test_a_plan_that_would_train_something_else_is_refused_by_the_ranks_themselves(fresh_run: Launch) -> None:
    attempts = fresh_run("ddp", 2, **TWELVE)
    attempts.train(stop_at=2)
    plan = attempts.run.plan()
    changed = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"seed": 7})})
    attempts.run.plan_file.write_text(changed.to_json())
    outcome = attempts.train()
    assert outcome.verdict is not None
    assert outcome.verdict.outcome == AttemptOutcome.FATAL
    assert (
        "step-00000002: this would change what is trained:\n  seed: was 42, is 7\n" in outcome.verdict.reason
    )
    assert attempts.run.checkpoint(2).is_dir()


@pytest.mark.usefixtures("forked_resume")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that this test fills")
def test_a_disk_that_fills_up_in_mid_save_ends_the_run_clearly_and_loses_nothing(
    fresh_run: Launch, launch: Launch
) -> None:
    whole, attempts = launch("ddp", 2, **TWELVE), fresh_run("ddp", 2, **TWELVE)
    run = attempts.run
    with small_disk(run.checkpoints, files=FILES_OF_ONE):
        outcome = attempts.train()
        assert outcome.verdict is not None, attempts.log()
        assert outcome.verdict.outcome == AttemptOutcome.FATAL
        assert f"{run.checkpoints}: the disk is full" in outcome.verdict.reason
        assert "earlier checkpoints are intact" in outcome.verdict.reason
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000002"]
        found = newest_valid(run)
        assert found is not None
        assert found[1].step == 2
        subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(run.checkpoints)], check=True)
        resume(run)
        assert attempts.verdict is not None
        assert attempts.verdict.outcome == AttemptOutcome.COMPLETED
    losses = {record.step: record.loss for record in attempts.steps}
    assert list(losses.values()) == whole.losses
    assert ledger(run) == ledger(whole.run)


@contextmanager
def small_disk(folder: Path, *, files: int) -> Iterator[None]:
    """A file system that holds so many files and folders, mounted over an empty ``folder``."""
    options = f"size=100m,nr_inodes={files}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
