"""Parts of the start of an attempt, and packages that are hidden from its imports."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemfit.core.launcher_environment import COMMAND_TIME, LAUNCH_TIME
from gemfit.core.process_start import process_start_time
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StartRecord, parse_record
from gemfit.train.telemetry.start_parts import StartCallback, StartParts
from gemfit.train.unused_packages import unused_packages
from gemfit_launch.planning.request import Request


def test_a_process_knows_when_it_began() -> None:
    began = process_start_time()
    assert 0 < time.time() - began < 24 * 3600
    assert process_start_time() == pytest.approx(began, abs=0.1)


def test_parts_sum_to_the_time_since_the_command() -> None:
    began = process_start_time()
    start = StartParts({COMMAND_TIME: repr(began - 3.0), LAUNCH_TIME: repr(began - 1.0)})
    start.mark("imports", began + 4.0)
    start.mark("trainer", began + 5.0)
    start.mark("engine", began + 5.5)
    start.mark("trainer", began + 6.0)
    assert start.parts == pytest.approx(
        {"launcher": 2.0, "processes": 1.0, "imports": 4.0, "trainer": 1.5, "engine": 0.5}, abs=0.1
    )
    assert sum(start.parts.values()) == pytest.approx(start.seconds) == pytest.approx(9.0, abs=0.1)


def test_without_a_launcher_the_start_is_that_of_the_process() -> None:
    start = StartParts({})
    assert start.begin == pytest.approx(process_start_time(), abs=0.1)
    assert (start.parts["launcher"], start.parts["processes"]) == pytest.approx((0, 0), abs=0.1)


def test_the_first_step_alone_is_recorded(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(run=RunDir(tmp_path), attempt=3)
    callback, state = StartCallback(trainer, start=StartParts({})), SimpleNamespace(global_step=11)
    callback.on_train_begin(None, state, None)
    for step in (11, 12):
        state.global_step = step
        callback.on_step_begin(None, state, None)
        callback.on_step_end(None, state, None)
    (line,) = RunDir(tmp_path).metrics_file.read_text().splitlines()
    record = parse_record(line)
    assert isinstance(record, StartRecord)
    assert (record.attempt, record.step) == (3, 11)
    assert sum(record.parts.values()) == pytest.approx(record.seconds)
    assert list(record.parts)[-2:] == ["data", "first step"]


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ((), set()),
        (("strategy=zero2",), {"deepspeed"}),
        (("tracking.report_to=[tensorboard,wandb]",), set()),
        (("tracking.report_to=[tensorboard,comet_ml]",), {"boto3"}),
        (("model.lora.rank=2",), {"peft"}),
        (("model.lora.rank=2", "model.quantization=nf4"), {"peft", "bitsandbytes"}),
    ],
)
def test_what_a_recipe_uses_is_not_hidden(settings: tuple[str, ...], used: set[str]) -> None:
    recipe = Request(name="gemma3/1b-reference", settings=settings).recipe()
    assert {"deepspeed", "peft", "bitsandbytes", "boto3"} - set(unused_packages(recipe)) == used
