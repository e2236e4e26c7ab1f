"""nvidia-smi: run within a time limit, and tables in which the driver gives no value for some fields."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WSL_TOOL = Path("/usr/lib/wsl/lib/nvidia-smi")
"""Its place under WSL2, which not every distribution has on PATH."""
BROKEN_STATUSES = (8, 9, 10, 15, 255)
"""No power, no driver, an interrupt issue, a GPU off the bus, an internal driver error (nvidia-smi(1))."""
INFOROM_STATUS = 14
"""The output is complete: the infoROM of a GPU, which holds its serial number, is corrupted."""
NO_DEVICES = re.compile(r"^No devices (were )?found\.?$", re.MULTILINE)
BROKEN_VALUE = re.compile(
    r"\[(Unknown Error|GPU is lost|GPU requires reset|Reset Required)\]|\bERR!", re.IGNORECASE
)
KILL_SECONDS = 1.0

Row = dict[str, str]


class NvidiaSmiUnavailable(Exception):
    """nvidia-smi is not installed, or cannot be used here; says nothing about the GPUs."""


class NvidiaSmiFault(Exception):
    """nvidia-smi does not answer, or reports a broken driver or GPU."""


def run_nvidia_smi(arguments: Sequence[str], *, timeout_seconds: float) -> str:
    """Standard output of nvidia-smi; empty if it finds no devices."""
    process = _start(arguments)
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise NvidiaSmiFault(f"nvidia-smi does not answer within {timeout_seconds:.0f} s") from None
    if NO_DEVICES.search(output + errors):
        return ""
    if process.returncode in (0, INFOROM_STATUS):
        return output
    first = next(iter((output.strip() or errors.strip()).splitlines()), f"status {process.returncode}")
    kind = NvidiaSmiFault if process.returncode in BROKEN_STATUSES else NvidiaSmiUnavailable
    raise kind(f"nvidia-smi fails: {first}")


def query_gpus(fields: Sequence[str], *, timeout_seconds: float) -> list[Row]:
    """One row per GPU, with the ``fields`` of ``--query-gpu``."""
    arguments = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    return parse_rows(run_nvidia_smi(arguments, timeout_seconds=timeout_seconds), fields)


def parse_rows(table: str, fields: Sequence[str]) -> list[Row]:
    """The rows of a table without header; lines of another shape are warnings of the tool."""
    rows = [[value.strip() for value in line.split(",")] for line in table.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def selected_rows(rows: list[Row], visible: str | None) -> list[Row]:
    """The rows, with ``index`` and ``uuid``, of the GPUs in ``CUDA_VISIBLE_DEVICES``."""
    if visible is None:
        return rows
    entries = [entry.strip() for entry in visible.split(",")]
    names = tuple(entry for entry in entries if entry.startswith("GPU-"))
    return [row for row in rows if row["index"] in entries or (names and row["uuid"].startswith(names))]


def number(value: str) -> float | None:
    """A number; ``None`` for ``[N/A]``, ``[Not Supported]``, ``[Insufficient Permissions]`` and the like."""
    try:
        return float(value)
    except ValueError:
        return None


def compute_capability(value: str) -> tuple[int, int] | None:
    """Such as ``9.0`` as numbers; ``None`` where the driver gives none."""
    match = re.fullmatch(r"(\d+)\.(\d+)", value)
    return (int(match[1]), int(match[2])) if match else None


def is_broken(row: Row) -> bool:
    """Whether a value says that this GPU is out of order."""
    return any(BROKEN_VALUE.search(value) for value in row.values())


def _abandon(process: subprocess.Popen[str]) -> None:
    """Kill without waiting long: a process that hangs inside the driver does not end, not even by SIGKILL."""
    process.kill()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    tool = shutil.which("nvidia-smi") or (str(WSL_TOOL) if os.access(WSL_TOOL, os.X_OK) else None)
    if tool is None:
        raise NvidiaSmiUnavailable("nvidia-smi is not on PATH")
    try:
        return subprocess.Popen(
            [tool, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise NvidiaSmiUnavailable(f"{tool}: {error.strerror}") from None
