"""Pushes beside a training: what they hold, what they let go, and what the training hears of them."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemfit.checkpoint.retention import locked_if_unread
from gemfit.publish.retry import Patience
from gemfit.publish.send import deliver_spool
from gemfit.publish.worker import give_way
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.plan import Plan
from gemfit.upload.background_uploader import Pusher, environment
from gemfit.upload.spool import Delivery, Spool
from hub.conftest import REPO, Made
from hub.repos import Fault
from hub.server import HubServer, wait_until

EVERY_SAVE = HubRecipe(repo=REPO, push="every_save")


def plan_with(run: RunDir, hub: HubRecipe) -> Plan:
    plan = run.plan()
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"hub": hub})})


class Scripted(Pusher):
    """Its process runs ``script`` and has the descriptors of the locks as arguments."""

    script = "import time; time.sleep(60)"

    def _launch(self, descriptors: list[int]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", self.script, *map(str, descriptors)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=descriptors)


def is_free(run: RunDir, step: int) -> bool:
    with locked_if_unread(run.checkpoint(step)) as free:
        return free


def test_a_commit_is_pushed_by_another_process_while_the_caller_goes_on(
    made: Made, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    pusher = Pusher(made.run, plan_with(made.run, EVERY_SAVE))
    began = time.perf_counter()
    with caplog.at_level(logging.INFO, logger="gemfit"):
        pusher.committed(2)
        elapsed = time.perf_counter() - began
        assert not is_free(made.run, 2)  # before the process has even started
        made.save(4, keep=1)  # retention wants the older one
        assert made.run.checkpoint(2).is_dir()
        pusher.finish(120)
    assert elapsed < 0.5
    assert is_free(made.run, 2)
    assert [sent.push.step for sent in Spool.of(made.run).sent()] == [2]
    assert f"step 2: pushed to {REPO}" in caplog.text
    assert list(hub.repos[REPO].messages.values())[1:] == ["Step 2"]
    assert hub.token not in Spool.of(made.run).log.read_text()


def test_a_checkpoint_is_held_until_it_is_staged_and_no_longer(made: Made) -> None:
    class LetsGo(Scripted):
        script = "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(60)"

    pusher = LetsGo(made.run, plan_with(made.run, EVERY_SAVE))
    pusher.committed(2)
    wait_until(lambda: is_free(made.run, 2))
    pusher.finish(0)


def test_one_process_runs_at_a_time_and_the_newest_that_waits_replaces_older_ones(made: Made) -> None:
    pusher = Scripted(made.run, plan_with(made.run, EVERY_SAVE))
    for step in (4, 6):
        made.save(step)
    pusher.committed(2)
    wait_until(lambda: pusher._process is not None)
    first = pusher._process
    pusher.committed(4)
    assert not is_free(made.run, 4)
    pusher.committed(6)
    assert is_free(made.run, 4)
    assert not is_free(made.run, 6)
    assert pusher._process is first
    assert made.run.spooled_steps == [6]
    pusher.finish(0)


def test_where_each_push_is_tagged_none_is_skipped(made: Made) -> None:
    made.save(4)
    pusher = Scripted(made.run, plan_with(made.run, EVERY_SAVE.model_copy(update={"tag": True})))
    for step in (2, 4):
        pusher.committed(step)
    assert made.run.spooled_steps == [2, 4]
    assert not is_free(made.run, 2)
    assert not is_free(made.run, 4)
    pusher.finish(0)


def test_only_the_last_step_is_pushed_at_the_end(made: Made) -> None:
    plan = plan_with(made.run, HubRecipe(repo=REPO, push="end"))
    longer = plan.model_copy(update={"steps": plan.steps.model_copy(update={"total": 4})})
    made.save(4)
    pusher = Scripted(made.run, longer)
    pusher.committed(2)
    assert made.run.spooled_steps == []
    pusher.committed(4)
    assert made.run.spooled_steps == [4]
    pusher.finish(0)


def test_only_a_checkpoint_of_lower_held_out_loss_is_pushed_as_best(made: Made) -> None:
    pusher = Scripted(made.run, plan_with(made.run, HubRecipe(repo=REPO, push="best")))
    wanted = []
    for step, loss in ((4, 3.0), (6, 2.0), (8, 2.5), (10, None)):
        made.save(step, loss)
        pusher.committed(step)
        wanted.append(made.run.spooled_steps)
    assert wanted == [[4], [6], [6], [6]]
    pusher.finish(0)


def test_a_preempted_run_waits_for_nothing_and_says_how_to_send_the_rest(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    pusher = Scripted(made.run, plan_with(made.run, EVERY_SAVE))
    pusher.committed(2)
    wait_until(lambda: pusher._process is not None)
    began = time.perf_counter()
    pusher.finish(0)
    assert time.perf_counter() - began < 4
    assert pusher._process is not None
    assert pusher._process.poll() is not None
    assert caplog.text.count(f"gemfit push --spooled {made.run.root}") == 1
    assert is_free(made.run, 2)


def test_a_trouble_is_said_once_however_often_it_comes(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    class Offline(Scripted):
        script = (
            "import json, sys; print(json.dumps({'sent': [], 'waiting': [2], 'refused': [],"
            " 'reason': 'HF_HUB_OFFLINE is set'})); sys.exit(75)"
        )

    pusher = Offline(made.run, plan_with(made.run, EVERY_SAVE))
    for step in (2, 4, 6):
        if step > 2:
            made.save(step)
        pusher.committed(step)
        assert pusher._underway is not None
        pusher._underway.result(timeout=20)
    assert caplog.text.count("HF_HUB_OFFLINE is set") == 1
    pusher.finish(0)


def test_a_process_that_crashes_is_told_of_and_the_training_goes_on(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashes(Scripted):
        script = "raise SystemExit(1)"

    pusher = Crashes(made.run, plan_with(made.run, EVERY_SAVE))
    pusher.committed(2)
    pusher.finish(20)
    assert "ended with status 1" in caplog.text
    assert "push.log" in caplog.text
    assert made.run.spooled_steps == [2]


def test_a_later_attempt_goes_on_with_what_an_earlier_one_left(ready: RunDir, hub: HubServer) -> None:
    pusher = Pusher(ready, plan_with(ready, EVERY_SAVE))
    pusher.begin()
    pusher.finish(120)
    assert [sent.push.step for sent in Spool.of(ready).sent()] == [2]


def test_an_endpoint_that_stalls_is_given_up_after_one_quick_question(
    ready: RunDir, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gemfit.publish.client.PROBE_SECONDS", 0.1)
    hub.faults.append(Fault("GET", f"/api/models/{REPO}$", stall_seconds=30))
    delivery = deliver_here(ready)
    assert delivery.reason == f"{hub.url} does not answer"
    assert delivery.waiting == [2]


def deliver_here(run: RunDir) -> Delivery:
    """As the process in the background does it."""
    return deliver_spool(run, Patience(), probe=True)


def test_the_process_is_no_rank_and_sees_no_gpu_and_has_the_token_of_the_environment(tmp_path: Path) -> None:
    of_a_rank = {"RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "ACCELERATE_USE_FSDP": "true"}
    made = environment(of_a_rank | {"HF_TOKEN": "hf_x", "HF_ENDPOINT": "y", "CUDA_VISIBLE_DEVICES": "0,1"})
    assert not set(made) & set(of_a_rank)
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert made["OMP_NUM_THREADS"] == "1"
    assert (made["HF_TOKEN"], made["HF_ENDPOINT"]) == ("hf_x", "y")


def test_the_process_gives_way_as_a_session_and_not_only_within_it() -> None:
    script = (
        "import os, pathlib; from gemfit.publish.worker import give_way; give_way();"
        "group = pathlib.Path('/proc/self/autogroup');"
        "print(os.nice(0), group.read_text().split()[-1] if group.exists() else 19)"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout.split() == ["19", "19"]


def test_a_kernel_that_refuses_is_told_of_and_the_push_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.nice", lambda by: 19)
    (tmp_path / "autogroup").mkdir()  # cannot be written to
    give_way(tmp_path / "autogroup")
    assert "stays as it is" in capsys.readouterr().err
