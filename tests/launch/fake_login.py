"""A login node whose Slurm fits into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import Result

from gemfit.rundir import RunDir

FAKE = Path(__file__).with_name("fake_slurm.py")
SITE = "partition: low\ngpus_per_node: 0\nranks_per_node: 2\n"
ASKED = ["debug/cpu-tiny", "--data", "conversations.jsonl", "--site", "site.yaml", "--nodes", "2"]


@dataclass(frozen=True)
class FakeSlurm:
    """What the commands were asked, and the queue that they answer from."""

    folder: Path

    def calls(self, command: str) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [call for call in map(json.loads, lines) if call["command"] == command]

    def set_job(self, number: int, state: str, reason: str = "None", **more: str) -> None:
        path = self.folder / "queue.json"
        queue = json.loads(path.read_text())
        queue[str(number)] |= {"state": state, "reason": reason, **more}
        path.write_text(json.dumps(queue))

    def forget_all(self) -> None:
        (self.folder / "queue.json").write_text("{}")

    def add_job(self, number: int, state: str) -> None:
        """Add a job of another user."""
        path = self.folder / "queue.json"
        queue = json.loads(path.read_text()) if path.is_file() else {}
        queue[str(number)] = {"state": state, "reason": "None", "name": "other"}
        path.write_text(json.dumps(queue))

    def refuse(self, command: str, words: str) -> None:
        (self.folder / f"{command}.refuses").write_text(words)


def status_of(cli: Callable[..., Result], run: RunDir) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(cli("status", run.root, "--json").stdout)[0]
    return answer
