"""What a rank on a GPU records of it: stand-ins for torch's counters and NVML's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from gemfit.schemas.metrics import EnergyRecord, HardwareRecord, MemoryRecord, Record
from gemfit.train.telemetry.energy import EnergyCallback
from gemfit.train.telemetry.hardware import HardwareCallback
from gemfit.train.telemetry.peak_memory import PeakMemoryCallback
from gemfit_launch.runs.metrics_tail import Tail

GIB = 2**30
ARGUMENTS = SimpleNamespace(device=torch.device("cuda", 3), local_process_index=0)
STATE = SimpleNamespace(global_step=7)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """GPU 3 of a process, as torch and NVML describe it; the counters may be changed."""
    values: dict[str, float] = {"allocated": 60 * GIB, "reserved": 62 * GIB, "millijoules": 5_000_000}
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * GIB, uuid="8f6a")

    def reset(device: torch.device) -> None:
        assert device.index == 3
        values.update(allocated=0, reserved=0)

    functions = {
        "get_device_properties": lambda device: properties,
        "get_device_name": lambda device: properties.name,
        "reset_peak_memory_stats": reset,
        "max_memory_allocated": lambda device: values["allocated"],
        "max_memory_reserved": lambda device: values["reserved"],
    }
    nvml = {
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetHandleByUUID": {"GPU-8f6a": "board"}.__getitem__,
        "nvmlDeviceGetEnforcedPowerLimit": {"board": 700_000}.__getitem__,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: values["millijoules"],
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
    for name, stand_in in nvml.items():
        monkeypatch.setattr(pynvml, name, stand_in)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return values


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    taken = SimpleNamespace(model=SimpleNamespace(attention="varlen"))
    return SimpleNamespace(
        attempt=1,
        run=SimpleNamespace(metrics_file=tmp_path / "metrics.jsonl"),
        plan=SimpleNamespace(recipe=taken, attention_because="its kernel passed a probe"),
    )


def only_record(trainer: Any) -> Record:
    (record,) = Tail(trainer.run.metrics_file).read()
    return record


def test_the_gpu_and_what_drives_it_are_named(gpu: dict[str, float], trainer: Any) -> None:
    HardwareCallback(trainer).on_train_begin(ARGUMENTS, STATE, None)
    record = only_record(trainer)
    assert isinstance(record, HardwareRecord)
    (board,) = record.gpus
    assert (board.name, board.memory, board.power_limit_watts) == ("NVIDIA H100 80GB HBM3", 80 * GIB, 700)
    assert (record.versions["CUDA"], record.versions["driver"]) == ("13.0", "580.1")


def test_memory_is_the_peak_since_the_training_began(gpu: dict[str, float], trainer: Any) -> None:
    memory = PeakMemoryCallback(trainer)
    memory.on_train_begin(ARGUMENTS, STATE, None)
    gpu.update(allocated=40 * GIB, reserved=41 * GIB)
    memory.on_train_end(ARGUMENTS, STATE, None)
    record = only_record(trainer)
    assert isinstance(record, MemoryRecord)
    assert [(rank.gpu, rank.gpu_reserved) for rank in record.ranks] == [(40 * GIB, 41 * GIB)]
    assert record.gpu_name == "NVIDIA H100 80GB HBM3"


def test_energy_is_what_the_board_has_taken_meanwhile(gpu: dict[str, float], trainer: Any) -> None:
    energy = EnergyCallback(trainer)
    energy.on_train_begin(ARGUMENTS, STATE, None)
    gpu["millijoules"] += 9_000
    energy.on_train_end(ARGUMENTS, STATE, None)
    record = only_record(trainer)
    assert isinstance(record, EnergyRecord)
    assert record.gpu_joules == 9.0
