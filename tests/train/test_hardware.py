"""What an attempt says of the machines that it runs on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pynvml
import pytest

from gemfit.schemas.metrics import Gpu
from gemfit.schemas.metrics_history import read_history
from gemfit.train.telemetry.hardware import RankHardware, board_power_limit, hosts

if TYPE_CHECKING:
    from train.conftest import Launch


def place(host: str, gpu_id: str = "") -> RankHardware:
    gpu = Gpu(name="H100", memory=80, power_limit_watts=700.0) if gpu_id else None
    return RankHardware(host=host, cpu="EPYC", cores=8, memory=64, gpu=gpu, gpu_id=gpu_id)


def test_ranks_are_counted_by_machine_and_boards_once() -> None:
    first, second = hosts([place("a", "1"), place("b", "1"), place("a", "2"), place("b", "1")])
    assert (first.ranks, len(first.gpus)) == (2, 2)
    assert (second.ranks, len(second.gpus)) == (2, 1)


def test_the_power_limit_is_that_of_the_board_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    boards = {"GPU-8f6a": 350_000}
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", boards.__getitem__)
    assert board_power_limit("8f6a") == 350.0


def test_without_nvml_no_power_limit_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert board_power_limit("8f6a") is None


@pytest.mark.dist
@pytest.mark.slow
def test_every_attempt_tells_what_it_runs_on(launch: Launch) -> None:
    [record] = read_history(launch("ddp", 2).run.metrics_file).hardware
    assert (record.attempt, record.step, record.ranks, len(record.hosts)) == (1, 0, 2, 1)
    [host] = record.hosts
    assert (host.cores, host.gpus) == (os.cpu_count(), ())
    assert host.cpu
    assert host.memory > 2**30
    assert {"gemfit", "torch", "transformers", "accelerate"} <= set(record.versions)
