"""Number of GPUs that CUDA enumerates in a process of this machine: by the driver, else by device files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from gemfit.core.nvidia_smi import NvidiaSmiFault, NvidiaSmiUnavailable, run_nvidia_smi

LIST_SECONDS = 20.0
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
_GPU = re.compile(r"GPU (\d+): .*\(UUID: ([^)]*)\)")
_MIG = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]*)\)")
_ENTRY = re.compile(r"\d+|(GPU|MIG)-\S+")


@dataclass(frozen=True, slots=True)
class ListedGpu:
    """A GPU in the output of ``nvidia-smi -L``."""

    index: int
    uuid: str
    mig_uuids: tuple[str, ...] = ()


def count_gpus() -> int:
    """GPUs that CUDA would enumerate in a new process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _entries(visible):
        return 0
    listed = _listed()
    if isinstance(listed, Exception):
        return count_selected(count_device_files(Path("/")), visible)
    return count_listed(listed, visible)


def parse_list(text: str) -> tuple[ListedGpu, ...]:
    """GPUs and their MIG devices from the output of ``nvidia-smi -L``."""
    gpus: list[ListedGpu] = []
    for line in text.splitlines():
        if match := _GPU.match(line):
            gpus.append(ListedGpu(int(match[1]), match[2]))
        elif gpus and (match := _MIG.match(line)):
            last = gpus[-1]
            gpus[-1] = ListedGpu(last.index, last.uuid, (*last.mig_uuids, match[1]))
    return tuple(gpus)


def count_listed(gpus: tuple[ListedGpu, ...], visible: str | None) -> int:
    """GPUs of ``CUDA_VISIBLE_DEVICES`` among those listed; an unknown entry ends the list, as in CUDA.

    CUDA enumerates at most one MIG device per process, and none where another GPU is visible.
    """
    whole = sum(not gpu.mig_uuids for gpu in gpus)
    if visible is None:
        return whole or min(len(gpus), 1)
    selected: list[ListedGpu | str] = []
    for entry in _entries(visible):
        found = _find(gpus, entry)
        if found is None or found in selected:
            break
        selected.append(found)
    selected_whole = sum(isinstance(found, ListedGpu) and not found.mig_uuids for found in selected)
    return selected_whole or min(len(selected), 1)


def count_selected(present: int, visible: str | None) -> int:
    """GPUs of ``CUDA_VISIBLE_DEVICES`` among ``present`` ones that the driver does not describe."""
    if visible is None or not present:
        return present
    entries = _entries(visible)
    if any(entry.startswith("MIG-") for entry in entries):
        return 1
    return len(entries)


def count_device_files(root: Path) -> int:
    """GPUs by device files and the driver's folder below ``root``; those of WSL2 and Jetson count as one."""
    files = len(list((root / "dev").glob("nvidia[0-9]*")))
    driver = root / "proc" / "driver" / "nvidia" / "gpus"
    if files and driver.is_dir():
        # Some containers show the device files of all GPUs, and the folder of those that they may use.
        return min(files, len(list(driver.iterdir())) or files)
    if files:
        return files
    wsl = (root / "dev" / "dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    jetson = any((root / "dev" / name).exists() for name in ("nvhost-gpu", "nvgpu", "nvhost-ctrl-gpu"))
    return int(wsl or jetson)


def unused_gpu_signs(root: Path = Path("/")) -> Iterator[str]:
    """Signs of a GPU on a machine where none was counted; none if ``CUDA_VISIBLE_DEVICES`` hides them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _entries(visible):
        return
    listed = _listed()
    if isinstance(listed, NvidiaSmiFault):
        yield str(listed)
    if visible:
        yield f"CUDA_VISIBLE_DEVICES is {visible}"
    if files := count_device_files(root):
        yield f"there are device files of {files}"
    elif found := sum(map(_is_nvidia_display, (root / "sys/bus/pci/devices").glob("*"))):
        yield f"{found} on the PCI bus"


@cache
def _listed() -> tuple[ListedGpu, ...] | NvidiaSmiFault | NvidiaSmiUnavailable:
    """The GPUs of ``nvidia-smi -L``, or why it gives none.

    Once per process: it takes a second where the driver is not kept loaded, and longer where it hangs.
    """
    try:
        return parse_list(run_nvidia_smi(["-L"], timeout_seconds=LIST_SECONDS))
    except (NvidiaSmiFault, NvidiaSmiUnavailable) as why:
        return why


def _is_nvidia_display(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS)


def _entries(visible: str) -> list[str]:
    """The entries of ``CUDA_VISIBLE_DEVICES`` before the first that names no GPU, such as ``-1``."""
    return list(takewhile(_ENTRY.fullmatch, (part.strip() for part in visible.split(","))))


def _find(gpus: tuple[ListedGpu, ...], entry: str) -> ListedGpu | str | None:
    """The GPU of an index or a prefix of its UUID, or the UUID of a MIG device."""
    if entry.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    for gpu in gpus:
        if gpu.uuid.startswith(entry):
            return gpu
        if any(uuid.startswith(entry) for uuid in gpu.mig_uuids):
            return entry
    return None
