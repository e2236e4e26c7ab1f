"""`job begin`: what an attempt is given, and what keeps it from beginning."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gemfit.core.marked_answer import find_answers
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import PackReference, Plan
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.records.job_attempts import read_attempts
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.slurm_job.hooks import begin


def test_an_attempt_begins_with_a_place_to_meet(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    assert begin(run) == ExitCode.DONE
    answer = find_answers(capfd.readouterr().out)[0]
    word, attempt, host, port, *nodes = answer.split()
    assert (word, attempt, host, nodes) == ("attempt", "1", "127.0.0.1", ["2", "n1,n2"])
    assert 1024 < int(port) < 65536
    assert run.accelerate_file.is_file()
    assert read_attempts(run)[0].start.nodes == ("n1", "n2")


def test_an_attempt_that_slurm_ended_is_closed_by_the_next(run: RunDir) -> None:
    begin(run)
    begin(run)
    first, second = read_attempts(run)
    assert first.end is not None
    assert first.end.outcome == AttemptOutcome.INTERRUPTED
    assert second.end is None


def test_a_stop_that_comes_before_the_attempt_is_heard(run: RunDir) -> None:
    run.request_stop()
    assert begin(run) == ExitCode.DONE
    assert run.attempt == 0


def test_a_job_of_the_wrong_size_says_so_in_the_run(
    run: RunDir, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.adopt(plan.model_copy(update={"site": run.plan().site}))  # one node
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "is planned for 1 node, and the job has 2" in verdict.reason


def test_a_job_on_gpus_without_bfloat16_ends_before_ranks_start(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 7.0'; echo '1, GPU-b, 7.0'\n")
    tool.chmod(0o755)
    plan = run.plan()
    model = plan.recipe.model.model_copy(update={"dtype": "bfloat16"})
    recipe = plan.recipe.model_copy(update={"model": model})
    topology = plan.topology.model_copy(update={"device": "cuda"})
    run.adopt(plan.model_copy(update={"recipe": recipe, "topology": topology}))
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "0 of 2 have it (the lowest: 7.0)" in verdict.reason


def test_packed_data_that_is_gone_is_said_before_ranks_start(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = run.plan()
    gone = plan.pack.model_copy(update={"folder": "/packs/gone"})
    run.adopt(plan.model_copy(update={"pack": gone}))
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    assert find_answers(capfd.readouterr().out) == ["leave 1"]
    verdict = run.verdict()
    assert verdict is not None
    assert "/packs/gone: the packed data of this run is gone; `gemfit resume" in verdict.reason
    assert run.attempt == 0


@pytest.mark.parametrize("outcome", [AttemptOutcome.FATAL, AttemptOutcome.FAILED, AttemptOutcome.STOPPED])
@pytest.mark.parametrize("is_of_this_job", [True, False])
def test_the_verdict_of_a_packing_job_that_had_to_exit_with_0_is_kept(
    outcome: AttemptOutcome, is_of_this_job: bool, run: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    run.adopt(run.plan().model_copy(update={"pack": PackReference(fingerprint="f", folder="/packs/gone")}))
    script = JobFiles(run).write_script("train", "")
    run.write_verdict(Verdict(outcome=outcome, attempt=0, step=0, reason="a.jsonl: is empty"))
    if not is_of_this_job:
        os.utime(script, (time.time() + 100, time.time() + 100))
    assert job._begin_or_record(run, 1) == ExitCode.FAILED
    assert find_answers(capfd.readouterr().out) == ["leave 1"]
    verdict = run.verdict()
    assert verdict is not None
    is_of_pack = is_of_this_job and outcome is not AttemptOutcome.STOPPED
    assert ("a.jsonl: is empty" if is_of_pack else "is gone; `gemfit resume") in verdict.reason
    assert run.attempt == 0


def test_damaged_submissions_allow_no_change_and_the_run_goes_on(
    run: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    JobFiles(run).write_script("train", "")
    JobFiles(run).submissions_file.write_text("{")
    assert begin(run) == ExitCode.DONE
    assert "submissions.json" in capfd.readouterr().err
    assert run.attempt_record(1).allowed_changes == ()
