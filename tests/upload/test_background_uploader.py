"""Pushes during training: locks on checkpoints, the upload process, and what the run's log says."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemfit.checkpoint.retention import locked_if_unread
from gemfit.publish.send_spool import send_spool
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.plan import Plan
from gemfit.upload.background_uploader import BackgroundUploader, worker_environment
from gemfit.upload.spool import Spool
from publish.conftest import REPO, Made
from publish.repos import Fault
from publish.server import HubServer, wait_until

EVERY_SAVE = HubRecipe(repo=REPO, push="every_save")


def plan_with(run: RunDir, hub: HubRecipe) -> Plan:
    plan = run.plan()
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"hub": hub})})


class ScriptedUploader(BackgroundUploader):
    """Its process runs ``script``."""

    script = "import time; time.sleep(60)"

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", self.script], stdout=subprocess.PIPE)


def is_unlocked(run: RunDir, step: int) -> bool:
    with locked_if_unread(run.checkpoint(step)) as free:
        return free


def test_a_commit_is_pushed_by_another_process_while_the_caller_goes_on(
    made: Made, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = BackgroundUploader(made.run, plan_with(made.run, EVERY_SAVE))
    began = time.perf_counter()
    with caplog.at_level(logging.INFO, logger="gemfit"):
        uploader.on_commit(2)
        elapsed = time.perf_counter() - began
        assert not is_unlocked(made.run, 2)  # before the process has even started
        made.save(4, keep=1)  # retention wants the older one
        assert made.run.checkpoint(2).is_dir()
        uploader.finish(120)
    assert elapsed < 0.5
    assert is_unlocked(made.run, 2)
    assert [sent.push.step for sent in Spool.of(made.run).sent()] == [2]
    assert f"step 2: pushed to {REPO}" in caplog.text
    assert list(hub.repos[REPO].messages.values())[1:] == ["Step 2"]
    assert hub.token not in Spool.of(made.run).log.read_text()


def test_a_checkpoint_is_locked_until_it_is_exported(made: Made) -> None:
    class Exported(ScriptedUploader):
        script = (
            "import time; print('Welcome', flush=True); time.sleep(1);"
            "print('<gemfit-answer>exported</gemfit-answer>', flush=True); time.sleep(60)"
        )

    uploader = Exported(made.run, plan_with(made.run, EVERY_SAVE))
    uploader.on_commit(2)
    assert not is_unlocked(made.run, 2)
    wait_until(lambda: is_unlocked(made.run, 2))
    assert uploader._process is not None
    assert uploader._process.poll() is None
    uploader.finish(0)


def test_one_process_runs_at_a_time_and_a_newer_pending_push_replaces_older_ones(made: Made) -> None:
    uploader = ScriptedUploader(made.run, plan_with(made.run, EVERY_SAVE))
    for step in (4, 6):
        made.save(step)
    uploader.on_commit(2)
    wait_until(lambda: uploader._process is not None)
    first = uploader._process
    uploader.on_commit(4)
    assert not is_unlocked(made.run, 4)
    uploader.on_commit(6)
    assert is_unlocked(made.run, 4)
    assert not is_unlocked(made.run, 6)
    assert uploader._process is first
    assert made.run.spooled_steps == [6]
    uploader.finish(0)


def test_tagged_pushes_are_not_replaced(made: Made) -> None:
    made.save(4)
    uploader = ScriptedUploader(made.run, plan_with(made.run, EVERY_SAVE.model_copy(update={"tag": True})))
    for step in (2, 4):
        uploader.on_commit(step)
    assert made.run.spooled_steps == [2, 4]
    assert not is_unlocked(made.run, 2)
    assert not is_unlocked(made.run, 4)
    uploader.finish(0)


def test_only_the_last_step_is_pushed_at_the_end(made: Made) -> None:
    plan = plan_with(made.run, HubRecipe(repo=REPO, push="end"))
    longer = plan.model_copy(update={"steps": plan.steps.model_copy(update={"total": 4})})
    made.save(4)
    uploader = ScriptedUploader(made.run, longer)
    uploader.on_commit(2)
    assert made.run.spooled_steps == []
    uploader.on_commit(4)
    assert made.run.spooled_steps == [4]
    uploader.finish(0)


def test_only_a_checkpoint_of_lower_validation_loss_is_pushed_as_best(made: Made) -> None:
    uploader = ScriptedUploader(made.run, plan_with(made.run, HubRecipe(repo=REPO, push="best")))
    waiting = []
    for step, loss in ((4, 3.0), (6, 2.0), (8, 2.5), (10, None)):
        made.save(step, loss)
        uploader.on_commit(step)
        waiting.append(made.run.spooled_steps)
    assert waiting == [[4], [6], [6], [6]]
    uploader.finish(0)


def test_a_preempted_run_does_not_wait_and_says_how_to_send_the_rest(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = ScriptedUploader(made.run, plan_with(made.run, EVERY_SAVE))
    uploader.on_commit(2)
    wait_until(lambda: uploader._process is not None)
    began = time.perf_counter()
    uploader.finish(0)
    assert time.perf_counter() - began < 4
    assert uploader._process is not None
    assert uploader._process.poll() is not None
    assert caplog.text.count(f"gemfit push --spooled {made.run.root}") == 1
    assert is_unlocked(made.run, 2)


def test_a_repeated_failure_is_logged_once(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    class Offline(ScriptedUploader):
        script = (
            "import json, sys; answer = json.dumps({'sent': [], 'waiting': [2], 'refused': [],"
            " 'reason': 'HF_HUB_OFFLINE is set'});"
            " print(f'<gemfit-answer>{answer}</gemfit-answer>'); print('Bye'); sys.exit(75)"
        )

    uploader = Offline(made.run, plan_with(made.run, EVERY_SAVE))
    for step in (2, 4, 6):
        if step > 2:
            made.save(step)
        uploader.on_commit(step)
        assert uploader._upload is not None
        uploader._upload.result(timeout=20)
    assert caplog.text.count("HF_HUB_OFFLINE is set") == 1
    uploader.finish(0)


def test_a_crashed_process_is_logged_and_training_continues(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashes(ScriptedUploader):
        script = "raise SystemExit(1)"

    uploader = Crashes(made.run, plan_with(made.run, EVERY_SAVE))
    uploader.on_commit(2)
    uploader.finish(20)
    assert "ended with status 1" in caplog.text
    assert "push.log" in caplog.text
    assert made.run.spooled_steps == [2]


def test_a_later_attempt_sends_the_spool_of_an_earlier_one(ready: RunDir, hub: HubServer) -> None:
    uploader = BackgroundUploader(ready, plan_with(ready, EVERY_SAVE))
    uploader.begin()
    uploader.finish(120)
    assert [sent.push.step for sent in Spool.of(ready).sent()] == [2]


def test_a_stalled_endpoint_is_given_up_after_one_request(
    ready: RunDir, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gemfit.publish.client.PROBE_SECONDS", 0.1)
    hub.faults.append(Fault("GET", f"/api/models/{REPO}$", stall_seconds=30))
    result = send_spool(ready, probe=True)
    assert result.reason == f"{hub.url} does not answer"
    assert result.waiting == [2]


def test_the_process_has_no_rank_variables_and_no_gpu_but_the_token(tmp_path: Path) -> None:
    rank_variables = {"RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "ACCELERATE_USE_FSDP": "true"}
    made = worker_environment(
        rank_variables | {"HF_TOKEN": "hf_x", "HF_ENDPOINT": "y", "CUDA_VISIBLE_DEVICES": "0,1"}
    )
    assert not set(made) & set(rank_variables)
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert made["OMP_NUM_THREADS"] == "1"
    assert (made["HF_TOKEN"], made["HF_ENDPOINT"]) == ("hf_x", "y")
