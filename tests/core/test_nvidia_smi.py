"""Tables of nvidia-smi as drivers print them, and a tool that fails or hangs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from fake_nvidia_smi import FakeNvidiaSmi, nvidia_smi
from gemfit.core import nvidia_smi as module
from gemfit.core.nvidia_smi import (
    NvidiaSmiFault,
    NvidiaSmiUnavailable,
    compute_capability,
    is_broken,
    number,
    query_gpus,
    run_nvidia_smi,
)

__all__ = ["nvidia_smi"]
FIELDS = ("index", "memory.used")


@pytest.mark.parametrize(
    "value", ["[N/A]", "N/A", "[Not Supported]", "[Insufficient Permissions]", "[Unknown Error]", ""]
)
def test_a_value_that_is_not_given_is_no_number(value: str) -> None:
    assert number(value) is None
    assert compute_capability(value) is None


def test_numbers_and_capabilities_are_read() -> None:
    assert number("81559") == 81559
    assert compute_capability("12.1") == (12, 1)


@pytest.mark.parametrize(
    ("value", "broken"),
    [
        ("[GPU requires reset]", True),
        ("[Unknown Error]", True),
        ("ERR!", True),
        ("[N/A]", False),
        ("3", False),
    ],
)
def test_a_gpu_out_of_order_is_told_from_a_value_that_is_not_given(value: str, broken: bool) -> None:
    assert is_broken({"index": "0", "memory.used": value}) is broken


def test_warnings_between_the_rows_are_left_out(nvidia_smi: FakeNvidiaSmi) -> None:
    nvidia_smi.prints("0, 3\nWARNING: infoROM is corrupted at gpu 0000:3B:00.0\n1, [N/A]\n", status=14)
    assert query_gpus(FIELDS, timeout_seconds=5) == [
        {"index": "0", "memory.used": "3"},
        {"index": "1", "memory.used": "[N/A]"},
    ]


@pytest.mark.parametrize("status", [0, 6])
def test_no_devices_is_an_empty_table(nvidia_smi: FakeNvidiaSmi, status: int) -> None:
    nvidia_smi.prints("No devices were found\n", status=status)
    assert query_gpus(FIELDS, timeout_seconds=5) == []


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", NvidiaSmiFault),
        (15, "Unable to determine the device handle for GPU0: 0000:3B:00.0: GPU is lost.", NvidiaSmiFault),
        (255, "Failed to initialize NVML: Unknown Error", NvidiaSmiFault),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", NvidiaSmiUnavailable),
        (18, "Failed to initialize NVML: Driver/library version mismatch", NvidiaSmiUnavailable),
    ],
)
def test_a_broken_driver_is_told_from_a_tool_that_cannot_ask_it(
    nvidia_smi: FakeNvidiaSmi, status: int, said: str, kind: type[Exception]
) -> None:
    nvidia_smi.prints(f"{said}\n", status=status)
    with pytest.raises(kind) as raised:
        query_gpus(FIELDS, timeout_seconds=5)
    assert str(raised.value) == f"nvidia-smi fails: {said}"


def test_a_tool_that_hangs_is_left_behind_after_the_time_limit(
    nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.hangs()
    left: list[subprocess.Popen[str]] = []

    def kill_in_vain(process: subprocess.Popen[str]) -> None:
        left.append(process)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", kill_in_vain)
        started = time.monotonic()
        with pytest.raises(NvidiaSmiFault, match="does not answer within 0 s"):
            run_nvidia_smi(["-L"], timeout_seconds=0.3)
        assert time.monotonic() - started < 5
    (process,) = left
    assert process.poll() is None
    process.kill()
    process.wait()


def test_without_the_tool_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "WSL_TOOL", tmp_path / "absent")
    with pytest.raises(NvidiaSmiUnavailable, match="not on PATH"):
        run_nvidia_smi(["-L"], timeout_seconds=5)
    (tmp_path / "nvidia-smi").write_text("not a program")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(NvidiaSmiUnavailable, match="Exec format error"):
        run_nvidia_smi(["-L"], timeout_seconds=5)


def test_under_wsl2_the_tool_is_found_off_path(
    tmp_path: Path, nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.prints("0, 3\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(module, "WSL_TOOL", nvidia_smi.path)
    nvidia_smi.path.write_text("#!/bin/sh\necho '0, 3'\n")
    assert len(query_gpus(FIELDS, timeout_seconds=5)) == 1
