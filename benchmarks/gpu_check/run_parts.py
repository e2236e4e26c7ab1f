"""Run parts as processes with time limits: first those that may share the GPU, then the measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog import Part

PART_MAIN = Path(__file__).with_name("run_part.py")
SHARED = 3
"""Parts at a time where they share the GPU, with at least four cores each."""
MIN_SECONDS = 5.0
DRY_PATIENCE = 5
"""A dry run may share its cores with other work."""
TAIL = 1500
"""Characters of a failed part's output that its JSON line keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRunner:
    """Starts parts of one check."""

    work: Path
    env: dict[str, str]
    dry: bool
    deadline: float

    def run(self, part: Part) -> dict[str, Any]:
        """The JSON line of ``part``, also where it fails or its time ends."""
        limit = min(part.seconds * (DRY_PATIENCE if self.dry else 1), self.deadline - time.monotonic())
        if limit < MIN_SECONDS:
            return {"part": part.name, "ok": False, "seconds": 0.0, "error": "not started: no time was left"}
        began, out = time.monotonic(), self.work / f"{part.name}.json"
        text, ended = self._process(part, out, limit)
        line: dict[str, Any] = {"part": part.name, "ok": False}
        if out.is_file():
            line |= json.loads(out.read_text())
        elif ended:
            line["error"] = text[-TAIL:]
        if not ended:
            so_far = self.work / f"{part.name}.so-far.json"
            line["measured"] = json.loads(so_far.read_text()) if so_far.is_file() else {}
            line |= {"ok": False, "error": f"ended at its limit of {limit:.0f} s: {text[-TAIL:]}"}
        return line | {"seconds": round(time.monotonic() - began, 1)}

    def _process(self, part: Part, out: Path, limit: float) -> tuple[str, bool]:
        log, dry = self.work / f"{part.name}.log", ["--dry"] if self.dry else []
        argv = [sys.executable, str(PART_MAIN), part.name, "--work", str(self.work), "--out", str(out), *dry]
        with log.open("wb") as file:
            process = subprocess.Popen(
                argv, env=self.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
            try:
                process.wait(timeout=limit)
                return log.read_text(errors="replace"), True
            except subprocess.TimeoutExpired:
                return log.read_text(errors="replace"), False
            finally:
                if process.returncode is None:
                    kill_tree(process.pid)
                    process.wait()


def run_all(
    parts: list[Part], work: Path, env: dict[str, str], *, dry: bool, total_seconds: float
) -> Iterator[dict[str, Any]]:
    """The lines of all parts, each as soon as its part has ended; the first part prepares the others."""
    runner = PartRunner(work=work, env=env, dry=dry, deadline=time.monotonic() + total_seconds)
    first, *rest = parts
    prepared = runner.run(first)
    yield prepared
    if not prepared["ok"]:
        return
    cores = len(os.sched_getaffinity(0))
    # Times of a dry run are of no interest.
    shared = [part for part in rest if dry or not part.measures]
    with ThreadPoolExecutor(min(2, cores) if dry else max(1, min(SHARED, cores // 4))) as pool:
        yield from pool.map(runner.run, shared)
    yield from map(runner.run, [part for part in rest if part not in shared])


def kill_tree(pid: int) -> None:
    """Kill a process and all below it: launchers give ranks sessions of their own."""
    for victim in (pid, *descendants(pid)):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found
