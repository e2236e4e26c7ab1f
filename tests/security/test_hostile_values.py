"""A run folder from a stranger: values of another shape, and settings that would be followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gemfit.errors import UserError
from gemfit.report.load import load_run
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.report_facts import RunFacts
from gemfit.tracking.__main__ import main as sync
from gemfit.tracking.tracker import TrackedRun
from gemfit.tracking.tracker_state import TrackerState
from gemfit.tracking.wandb_run import open_wandb
from security.stranger import change, cli


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan["recipe"].update(model={"id": 7}),
        lambda plan: plan["recipe"].update(evil="x"),
        lambda plan: plan["recipe"]["hub"].update(repo="a/b; id", push="end"),
        lambda plan: plan.update(site={"name": "x", "env": {"A": "$(id)"}, "setup": 3}),
        lambda plan: plan.clear(),
    ],
)
def test_a_plan_of_another_shape_is_named(run: RunDir, edit: Callable[[Any], object]) -> None:
    change(run.plan_file, edit)
    for verb in (("resume", run.root, "--dry-run"), ("data", "inspect", run.root)):
        result = cli(*verb)
        assert result.exit_code == 2
        assert str(run.plan_file) in result.stderr


@pytest.mark.parametrize("number", ["9" * 30, "1000000000", "-3", "9" * 6000, "x"])
def test_a_number_of_attempts_that_would_be_counted_for_ever_is_damage(run: RunDir, number: str) -> None:
    run.attempt_file.write_text(number)
    assert run.attempt == 1
    assert cli("logs", run.root).exit_code == 0


@pytest.mark.parametrize("identity", ["../../victim", ".", "a/b", "", "x" * 200])
def test_an_id_of_a_tracker_that_is_a_path_is_refused(
    run: RunDir, identity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.trackers_file.write_text(json.dumps({"id": identity}))
    assert sync([str(run.root), "--to", "mlflow"]) == 75
    assert "trackers.json: id: String should match pattern" in capsys.readouterr().out


def test_settings_of_wandb_in_the_folder_do_not_choose_who_gets_the_key(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.root / "wandb").mkdir()
    (run.root / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    monkeypatch.chdir(run.root)
    tracked = TrackedRun(run, run.plan(), TrackerState(id="a"))
    with pytest.raises(UserError, match="would take its server from this file"):
        open_wandb(tracked)


def test_steps_are_not_counted_one_by_one(run: RunDir) -> None:
    last = StepRecord.model_validate_json(run.metrics_file.read_text())
    records = [last.model_copy(update={"step": 10**12}), last.model_copy(update={"step": 3, "attempt": 2})]
    with run.metrics_file.open("a") as stream:
        stream.writelines(record.model_dump_json() + "\n" for record in records)
    run.begin_attempt()
    assert load_run(run.root, RunFacts(), with_pack=False).attempts[0].repeats == (0, 10**12 - 2)
