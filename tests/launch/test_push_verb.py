"""``gemfit push``, and what a plan and a preflight say of pushes and tokens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from huggingface_hub import constants

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import EarlyStop, Verdict
from gemfit.schemas.check import CheckResult
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.exit_report import conclude
from gemfit_launch.runs.hub_token import token_file, token_source
from gemfit_launch.runs.local import AttemptResult
from gemfit_launch.slurm.cluster.preflight_local import _token

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]
PUSHES = ("--set", "hub.repo=me/kind", "--set", "hub.push=best")


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("push", ends=ExitCode.STOPPED)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No token of the Hub is stored."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_what_is_asked_for_is_handed_on_and_the_ending_too(run: RunDir, calls: Calls, cli: Cli) -> None:
    result = cli("push", run.root, "--repo", "me/kind", "--checkpoint", "best", "--message=-x", "--public")
    assert result.exit_code == ExitCode.STOPPED
    assert calls == [
        (
            "gemfit.publish.push",
            [str(run.root), "--repo", "me/kind", "--checkpoint", "best", "--message=-x", "--public"],
        )
    ]


def test_several_runs_are_for_the_spool_alone(run: RunDir, calls: Calls, cli: Cli) -> None:
    assert cli("push", run.root, run.root).exit_code == ExitCode.USER_ERROR
    assert cli("push", run.root, "--spooled", "--repo", "me/kind").exit_code == ExitCode.USER_ERROR
    assert calls == []
    cli("push", "--spooled", run.root, run.root, "--json")
    assert calls == [("gemfit.publish.push", [str(run.root), str(run.root), "--spooled", "--json"])]


def test_a_folder_without_a_run_is_reported_before_anything_is_started(
    tmp_path: Path, calls: Calls, cli: Cli
) -> None:
    result = cli("push", tmp_path)
    assert (result.exit_code, calls) == (ExitCode.USER_ERROR, [])
    assert "is not a run folder" in result.stderr


def test_a_plan_says_where_a_token_is_and_never_the_token(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = json.loads(cli("plan", "debug/cpu-tiny", *PUSHES, "--json").stdout)
    assert printed["hub_token"] is None
    assert "no token" in cli("plan", "debug/cpu-tiny", *PUSHES).stdout
    (home / "token").write_text("hf_stored")
    monkeypatch.setenv("COLUMNS", "400")
    for where in ("token", "HF_TOKEN"):
        printed = json.loads(cli("plan", "debug/cpu-tiny", *PUSHES, "--json").stdout)
        assert Path(printed["hub_token"]).name == where
        shown = cli("plan", "debug/cpu-tiny", *PUSHES).stdout
        assert "each best checkpoint to me/kind" in shown
        both = shown + json.dumps(printed)
        assert "hf_stored" not in both
        assert "hf_environment" not in both
        monkeypatch.setenv("HF_TOKEN", "hf_environment")


def test_a_plan_that_pushes_nothing_says_nothing_of_tokens(cli: Cli) -> None:
    assert "token" not in cli("plan", "debug/cpu-tiny").stdout.replace("tokens", "")


def test_a_preflight_warns_of_a_push_without_a_token(plan: Plan, home: Path) -> None:
    hub = plan.recipe.hub.model_copy(update={"repo": "me/kind", "push": "end"})
    pushing = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"hub": hub})})
    assert list(_token(plan)) == []
    assert [(found.state, "me/kind" in found.found) for found in _token(pushing)] == [("warning", True)]
    (home / "token").write_text("hf_stored")
    found: list[CheckResult] = list(_token(pushing))
    assert found[0].state == "ok"
    assert "hf_stored" not in found[0].found


def test_a_token_is_looked_for_where_huggingface_hub_looks(tmp_path: Path) -> None:
    assert token_file({}) == Path.home() / ".cache" / "huggingface" / "token"
    assert token_file({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/h/token")
    assert token_file({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/token")
    assert token_file({"HF_TOKEN_PATH": "/t", "HF_HOME": "/h"}) == Path("/t")
    assert Path(constants.HF_TOKEN_PATH).name == "token"
    assert token_source({"HF_TOKEN": " ", "HF_HOME": str(tmp_path)}) is None


EARLY = EarlyStop(patience=2, min_delta=0.0, best_step=6, best_loss=2.0)


@pytest.mark.parametrize(
    ("end", "early"),
    [(AttemptOutcome.COMPLETED, None), (AttemptOutcome.COMPLETED, EARLY), (AttemptOutcome.STOPPED, None)],
)
def test_the_exit_report_lists_what_was_not_pushed(
    end: AttemptOutcome, early: EarlyStop | None, run: RunDir
) -> None:
    verdict = Verdict(outcome=end, attempt=1, step=10, early_stop=early)
    outcome = AttemptResult(attempt=1, returncode=0, verdict=verdict)
    assert "push" not in conclude(run, outcome).text
    (run.spool / "pending").mkdir(parents=True)
    (run.spool / "pending" / "step-00000010.json").touch()
    (run.spool / "step-00000008").mkdir()
    text = conclude(run, outcome).text
    assert f"not pushed: step 8, 10; send with: gemfit push --spooled {shlex.quote(str(run.root))}" in text
