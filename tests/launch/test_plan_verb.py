"""``gemfit plan`` as text and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.request import Request

Cli = Callable[..., Result]


@pytest.mark.parametrize(
    ("gpus", "shape"),
    [
        (1, {"per_device_batch_size": 4, "gradient_accumulation_steps": 16, "slots": 64, "idle": 0}),
        (8, {"per_device_batch_size": 4, "gradient_accumulation_steps": 2, "slots": 64, "idle": 0}),
        (24, {"per_device_batch_size": 3, "gradient_accumulation_steps": 1, "slots": 72, "idle": 8}),
        (64, {"per_device_batch_size": 1, "gradient_accumulation_steps": 1, "slots": 64, "idle": 0}),
    ],
)
def test_json_shows_the_arithmetic_of_the_batch(gpus: int, shape: dict[str, int], cli: Cli) -> None:
    result = cli("plan", "gemma3/1b-reference", "--gpus", gpus, "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["batch"].items() >= (shape | {"global_batch_size": 64, "world_size": gpus}).items()
    assert plan["topology"]["world_size"] == gpus
    assert plan["topology"]["device"] == "cuda"


def test_more_gpus_than_rows_exit_2_and_name_what_works(cli: Cli) -> None:
    result = cli("plan", "gemma3/1b-reference", "--gpus", 96, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "at most 64 ranks have work, not 96" in result.stderr
    assert "1, 2, 4, 8, 16, 32, 64" in result.stderr


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_text_fits_a_page_and_ends_with_a_command_that_plans_the_same(
    strategy: str, conversations: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(conversations.parent)
    ranks = 1 if strategy == "single" else 2
    asked = ["debug/cpu-tiny", "--data", "conversations.jsonl", "--strategy", strategy, "--nproc", str(ranks)]
    output = cli("plan", *asked).output
    assert max(map(len, output.splitlines())) <= 100
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:2] == ["gemfit", "run"]
    assert cli("plan", *command[2:], "--json").output == cli("plan", *asked, "--json").output


def test_an_estimate_is_called_one_and_a_packed_count_is_not(
    conversations: Path, packed: Callable[..., PackManifest], cli: Cli
) -> None:
    before = cli("plan", "debug/cpu-tiny", "--data", conversations).output
    packed(make_pack_job(Request(name="debug/cpu-tiny", data=str(conversations)).recipe()), rows=123)
    after = cli("plan", "debug/cpu-tiny", "--data", conversations).output
    assert "warning: rows are estimated" in before
    assert "warning: rows" not in after
    assert "123 of 512 tokens, packed" in after


def test_a_plan_without_data_says_that_its_rows_are_a_placeholder(cli: Cli) -> None:
    output = cli("plan", "gemma3/1b-reference", "--gpus", 8).output
    assert "placeholder" in output
    assert "--data FILE.jsonl" in output


def test_planning_leaves_nothing_behind(
    conversations: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(conversations.parent)
    before = sorted(conversations.parent.rglob("*"))
    assert cli("plan", "debug/cpu-tiny", "--data", conversations, "--nproc", 2).exit_code == 0
    assert sorted(conversations.parent.rglob("*")) == before


def test_a_wrong_setting_names_itself(cli: Cli) -> None:
    result = cli("plan", "gemma3/1b-reference", "--set", "optim.lerning_rate=1")
    assert result.exit_code == 2
    assert "did you mean 'learning_rate'" in result.stderr
