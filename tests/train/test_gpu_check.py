"""The check of a GPU works: every part, tiny and on the CPU; and its table goes into the page."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any
from unittest import mock

import pytest

if TYPE_CHECKING:
    from rank_server import RankServer

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "benchmarks" / "gpu_check"
PARTS = {
    *("run", "engines", "compile", "checkpoint_thread", "four_bits", "machine"),
    *("attention", "copies", "lora_base", "memory", "speed"),
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that makes the tables; the check's folder is on the path."""
    monkeypatch.syspath_prepend(str(CHECK))
    return import_module("results_table")


class ForkedPart:
    """Stands for ``subprocess.Popen`` of a part: a fork of the process that has torch imported."""

    server: RankServer
    pid = 0
    returncode: int | None = None
    _one_at_a_time = threading.Lock()

    def __init__(self, argv: list[str], *, env: dict[str, str], stdout: IO[bytes], **_: object) -> None:
        self._argv, self._env, self._log = argv, env, Path(stdout.name)

    def wait(self, timeout: float) -> int:
        """Carry the part out: its errors go into its log, and what it prints next to it."""
        assert self._argv[0] == sys.executable
        files = {"output": self._log.with_suffix(".printed"), "errors": self._log}
        with self._one_at_a_time, mock.patch.dict(os.environ, self._env, clear=True):
            script = Path(self._argv[1])
            code = self.server.run(script, *self._argv[2:], **files, timeout_seconds=timeout)
        self.returncode = code
        return code


def lines_of(out: Path) -> list[dict[str, Any]]:
    """What the check has found, without a part that has failed."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["part"]: line.get("error") for line in lines if not line["ok"]} == {}
    assert {line["device"] for line in lines} == {"cpu"}
    return lines


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(1800)
def test_every_part_of_the_check_works_small_on_a_cpu(
    tmp_path: Path,
    rank_server: RankServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(CHECK))
    popen = type("Popen", (ForkedPart,), {"server": rank_server})
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    monkeypatch.setattr(import_module("run_parts"), "subprocess", SimpleNamespace(Popen=popen, **names))
    out = tmp_path / "lines.jsonl"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--dry", "--scratch", str(tmp_path), "--out", str(out)])
    assert runpy.run_path(str(CHECK / "__main__.py"))["main"]() == 0
    assert {line["part"] for line in lines_of(out)} == PARTS | {"prepare"}
    assert "Dry run on a CPU" in capsys.readouterr().out


@pytest.mark.slow
def test_parts_are_processes_of_a_command(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    argv = [sys.executable, str(CHECK), "--dry", "--only", "copies", "--scratch", str(tmp_path)]
    done = subprocess.run([*argv, "--out", str(out)], capture_output=True, text=True, check=False)
    assert [line["part"] for line in lines_of(out)] == ["prepare", "copies"], done.stderr
    assert "Dry run on a CPU" in done.stdout
    assert done.returncode == 0


def test_a_part_that_has_failed_is_a_line_of_the_table_and_others_are_kept(tables: Any) -> None:
    slow = {"part": "attention", "ok": False, "seconds": 60.0, "error": "ended at its limit"}
    good = {"part": "copies", "ok": True, "seconds": 2.0, "measured": {"pinned_gb_per_second": 50.0}}
    found = tables.table([slow, good])
    assert "**failed**: ended at its limit" in found
    assert "| pinned_gb_per_second | 50 |" in found


def test_calls_of_a_thread_are_found_under_either_of_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECK))
    part: Any = import_module("part_checkpoint_thread")
    monkeypatch.setattr(part.threading, "get_native_id", lambda: 4_242)
    monkeypatch.setattr(part.threading, "get_ident", lambda: 0x7F12_89AB_CDEF)
    signed = 0x89AB_CDEF - 2**32  # as traces write the number of a thread that the profiler does not know
    calls = {4_242: ["cudaEventRecord"], signed: ["cudaMemcpy"], 1: ["cudaLaunchKernel"]}
    assert part._calls_of(part._ids(), calls) == ["cudaEventRecord", "cudaMemcpy"]


def test_memory_off_the_prediction_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECK))
    faults: Any = import_module("part_speed")._memory_faults
    as_predicted = {"predicted_tensors": 100, "predicted": 110, "peak_tensors": 95, "peak_reserved": 110}
    assert faults(as_predicted) == []
    assert faults(as_predicted | {"peak_tensors": 80}) == ["tensors are -20% off the prediction"]
    assert faults(as_predicted | {"peak_reserved": 111}) == ["reserves more than predicted"]
    assert faults(as_predicted | {"peak_tensors": None, "peak_reserved": None}) == []


def test_results_replace_those_between_the_marks_of_the_page(tables: Any) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    once = tables.page_with(page, "| table 1 |")
    assert "None yet" not in once
    assert tables.page_with(once, "| table 2 |") == once.replace("| table 1 |", "| table 2 |")
    with pytest.raises(ValueError, match="the page has no"):
        tables.page_with("no marks", "table")
