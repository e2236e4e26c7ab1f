"""Resources of a build: a full disk and the memory of large inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import WriteConversations, WriteJob, command, random_conversations


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return random_conversations(300, seed=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_is_named_and_nothing_is_left(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    cache: Path,
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        job = write_job(write_conversations_file(lines))
        places = ((disk / "pack", cache, disk), (tmp_path / "pack", disk, disk / "blocks"))
        for out, used_cache, full in places:
            done = subprocess.run(
                command(job, out),
                capture_output=True,
                text=True,
                timeout=120,
                env=os.environ | {"GEMFIT_CACHE": str(used_cache)},
            )
            assert done.returncode == 2, done.stderr
            assert f"error: {full}: the disk is full" in done.stderr
            assert "write elsewhere" in done.stderr
            assert "Traceback" not in done.stderr
            assert not out.exists()
            left = {path.parts[len(disk.parts)] for path in disk.rglob("*") if path.is_file()}
            assert left <= {"tokenizers", "words"}  # whole and of use to the next build
    finally:
        subprocess.run(["umount", str(disk)], check=True)


MEASURE = """
import resource, sys
from gemfit.data.jsonl import blocks
from gemfit.data.__main__ import main
blocks.BLOCK_BYTES = 2**18
status = main([sys.argv[1], "--out", sys.argv[2]])
# Not ru_maxrss of this process, which begins with what the process that started it had.
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(status, int(own) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_mib(job: Path, out: Path) -> float:
    """Peak memory of a build that compiles no kernels: one that does is only a warm-up."""
    for number in range(4):
        argv = [sys.executable, "-c", MEASURE, str(job), f"{out}-{number}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        status, kib = done.stdout.split()
        assert status == "0", done.stderr
        if "compiling kernels" not in done.stderr:
            return int(kib) / 1024
    raise AssertionError("kernels are compiled again and again")


def test_memory_does_not_grow_with_the_input(
    write_conversations_file: WriteConversations, write_job: WriteJob, tmp_path: Path
) -> None:
    text = "We sleep and work and rest today, and we feel the long night. " * 12
    sizes: list[float] = []
    peaks: list[float] = []
    for count in (1_000, 10_000):
        lines = [{"messages": [{"role": "user", "content": f"{i}. {text}"}]} for i in range(count)]
        path = write_conversations_file(lines)
        sizes.append(path.stat().st_size / 2**20)
        job = write_job(path, seq_len=1024, near_duplicates="ignore")
        peaks.append(peak_mib(job, tmp_path / f"pack-{len(peaks)}"))
    grown = sizes[1] - sizes[0]
    assert grown > 6
    # Packed rows of this input take four times its size; some bytes a conversation are allowed.
    assert peaks[1] - peaks[0] < grown, peaks
