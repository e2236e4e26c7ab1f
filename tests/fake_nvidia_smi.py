"""A program called nvidia-smi that prints a recorded output; and recorded outputs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemfit.core import gpu_count

TWO_H100 = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f9a6f0e-6a4c-9a56-2c1a-0b8f3d1f0a01)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-5b7e2d7c-1c55-8d7e-9a3f-aa0e5d0c2b02)
"""
MIG_H100 = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f9a6f0e-6a4c-9a56-2c1a-0b8f3d1f0a01)
  MIG 3g.40gb     Device  0: (UUID: MIG-0d3b1f2a-9d3b-5d0c-8f4e-1f6a0c2b7d11)
  MIG 2g.20gb     Device  1: (UUID: MIG-7c2a5e4b-3a1d-5c6f-b2d8-9e0f1a3c4b22)
  MIG 1g.10gb     Device  2: (UUID: MIG-3e8d9c7f-5b4a-5e2d-a1c9-6d7e8f9a0b33)
"""
MIXED_MIG = (
    TWO_H100.splitlines()[0]
    + "\n  MIG 1g.10gb     Device  0: (UUID: MIG-3e8d9c7f-5b4a-5e2d-a1c9-6d7e8f9a0b33)\n"
    + TWO_H100.splitlines()[1]
    + "\n"
)
GB10 = "GPU 0: NVIDIA GB10 (UUID: GPU-9c4ad8f1-52f3-5c9b-8d8e-7f0a1b2c3d04)\n"
JETSON = "GPU 0: Orin (nvgpu) (UUID: 54fb5f3c-0f6c-5f53-9a9d-4fcb7e1d9b05)\n"


class FakeNvidiaSmi:
    """Sets what nvidia-smi prints, and with which status it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nvidia-smi"
        self.prints("")

    def prints(self, output: str, *, status: int = 0, listing: str | None = None) -> None:
        """Print ``output``, and for ``-L`` the ``listing`` where it is another."""
        listed = output if listing is None else listing
        self._write(
            f'text={shlex.quote(output)}; [ "$1" = -L ] && text={shlex.quote(listed)}\n'
            f'printf %s "$text"; exit {status}'
        )

    def hangs(self) -> None:
        """Never answer."""
        self._write("exec sleep 100")

    def _write(self, script: str) -> None:
        self.path.write_text(f"#!/bin/sh\n{script}\n")
        self.path.chmod(0o755)
        gpu_count._listed.cache_clear()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidiaSmi]:
    """A machine with this nvidia-smi, and no GPU selected."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield FakeNvidiaSmi(folder)
    gpu_count._listed.cache_clear()
