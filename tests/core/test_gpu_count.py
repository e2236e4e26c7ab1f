"""GPUs that CUDA enumerates, from listings of the driver and from made-up /dev, /proc and /sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_nvidia_smi import GB10, JETSON, MIG_H100, MIXED_MIG, TWO_H100, FakeNvidiaSmi, nvidia_smi
from gemfit.core import gpu_count
from gemfit.core.gpu_count import (
    count_device_files,
    count_gpus,
    count_listed,
    count_selected,
    parse_list,
    unused_gpu_signs,
)

__all__ = ["nvidia_smi"]
FIRST, SECOND = "GPU-1f9a6f0e", "GPU-5b7e2d7c-1c55-8d7e-9a3f-aa0e5d0c2b02"
MIG = "MIG-7c2a5e4b-3a1d-5c6f-b2d8-9e0f1a3c4b22"

TREES = {
    "a workstation": (["dev/nvidia0", "dev/nvidiactl", "dev/nvidia-uvm"], 1),
    "eight GPUs": ([f"dev/nvidia{index}" for index in range(8)] + ["dev/nvidia-caps/nvidia-cap1"], 8),
    "a container that shows all device files and may use one": (
        [*(f"dev/nvidia{index}" for index in range(8)), "proc/driver/nvidia/gpus/0000:3b:00.0/information"],
        1,
    ),
    "WSL2": (["dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"], 1),
    "WSL2 with a GPU of another maker": (["dev/dxg", "usr/lib/wsl/lib/libd3d12.so"], 0),
    "Jetson Xavier": (["dev/nvhost-gpu", "dev/nvhost-ctrl-gpu", "dev/nvmap"], 1),
    "Jetson Orin": (["dev/nvgpu/igpu0/ctrl", "dev/nvmap"], 1),
    "a machine without a GPU": (["dev/null", "proc/cpuinfo"], 0),
}


def grow(root: Path, files: list[str]) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize("machine", TREES)
def test_without_the_driver_device_files_count(tmp_path: Path, machine: str) -> None:
    files, expected = TREES[machine]
    assert count_device_files(grow(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("listing", "visible", "expected"),
    [
        (TWO_H100, None, 2),
        (TWO_H100, "1", 1),
        (TWO_H100, "0,1", 2),
        (TWO_H100, "1,0", 2),
        (TWO_H100, f"{FIRST}, {SECOND}", 2),
        (TWO_H100, "0,-1,1", 1),
        (TWO_H100, "0,7,1", 1),
        (TWO_H100, "0,0", 1),
        (TWO_H100, "7", 0),
        (GB10, None, 1),
        (JETSON, None, 1),
        (MIG_H100, None, 1),
        (MIG_H100, MIG, 1),
        (MIG_H100, "MIG-7c2a5e4b,MIG-3e8d9c7f", 1),
        (MIG_H100, "0", 1),
        (MIXED_MIG, None, 1),
        ("", None, 0),
        ("", "0", 0),
    ],
)
def test_the_driver_counts_the_gpus_that_are_selected(
    listing: str, visible: str | None, expected: int
) -> None:
    assert count_listed(parse_list(listing), visible) == expected


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 8), ("0,1", 2), ("", 0), ("-1", 0), (MIG, 1), ("NoDevFiles", 0)]
)
def test_without_the_driver_the_selected_ones_are_taken_at_their_word(
    visible: str | None, expected: int
) -> None:
    assert count_selected(8, visible) == expected
    assert count_selected(0, visible) == 0


def test_the_driver_is_asked_before_device_files(
    nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_count, "count_device_files", lambda root: 8)
    nvidia_smi.prints(TWO_H100)
    assert count_gpus() == 2
    nvidia_smi.prints("No devices found.\n")
    assert count_gpus() == 0
    nvidia_smi.prints("Failed to initialize NVML\n", status=9)
    assert count_gpus() == 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_gpus() == 0


def test_a_driver_that_hangs_is_asked_once(
    nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia_smi.hangs()
    monkeypatch.setattr(gpu_count, "LIST_SECONDS", 0.2)
    monkeypatch.setattr(gpu_count, "count_device_files", lambda root: 0)
    assert count_gpus() == 0
    nvidia_smi.path.unlink()
    assert list(unused_gpu_signs(tmp_path)) == ["nvidia-smi does not answer within 0 s"]


def test_signs_of_a_gpu_that_is_not_used(nvidia_smi: FakeNvidiaSmi, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert list(unused_gpu_signs(root)) == []
    device = root / "sys/bus/pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x040300\n")
    assert list(unused_gpu_signs(root)) == [], "the sound device of a GPU"
    (device / "class").write_text("0x030200\n")
    assert list(unused_gpu_signs(root)) == ["1 on the PCI bus"]
    grow(root, ["dev/nvidia0"])
    assert list(unused_gpu_signs(root)) == ["there are device files of 1"]


def test_gpus_that_are_hidden_or_selected_in_vain(
    nvidia_smi: FakeNvidiaSmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = grow(tmp_path / "root", ["dev/nvidia0"])
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert list(unused_gpu_signs(root)) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert list(unused_gpu_signs(tmp_path / "nothing")) == ["CUDA_VISIBLE_DEVICES is 3"]
