"""No rank waits in a collective for work of unknown length, and slow work between steps is not a hang."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import futures
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from gemfit.checkpoint import integrity
from gemfit.schemas.manifest import CheckpointManifest, FileDigest
from gemfit.schemas.metrics import ProgressRecord
from gemfit.train import collective, heartbeat
from gemfit.train.checkpoint import digest_writer
from gemfit.train.checkpoint.digest_writer import DigestingWriter
from gemfit.train.collective import COLLECTIVE_TIMEOUT, ROUND_SECONDS, in_rounds
from gemfit.train.heartbeat import BEAT_SECONDS, Heartbeat
from gemfit.train.loop.validation_loop import evaluate_rows
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.node.watchdog import Watchdog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test lets pass."""
    now = [0.0]
    for module in (collective, heartbeat):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    return now


@pytest.fixture
def meetings(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When this rank has met another one, which has nothing to do itself."""
    met: list[float] = []

    def gather(outcomes: list[Any], own: Any, group: Any) -> None:
        met.append(clock[0])
        outcomes[:] = [own, collective._Outcome(value=collective._Outcome(value=None))]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    return met


def test_a_rank_without_work_waits_for_a_round_at_most(clock: list[float], meetings: list[float]) -> None:
    def work() -> Iterator[None]:
        for _ in range(100):
            clock[0] += 30.0
            yield

    in_rounds(work())  # type: ignore[arg-type]
    assert clock[0] == 3000.0 > COLLECTIVE_TIMEOUT.total_seconds()
    waits = [after - before for before, after in itertools.pairwise([0.0, *meetings])]
    assert max(waits) <= ROUND_SECONDS


def test_every_rank_gets_all_values(meetings: list[float]) -> None:
    def work() -> Any:
        yield
        return "mine"

    assert in_rounds(work()) == ["mine", None]
    assert len(meetings) == 1


def test_a_file_that_is_read_for_minutes_does_not_keep_the_ranks_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = iter([0.0, 3.0])

    def damage(folder: Path, file: FileDigest) -> None:
        time.sleep(next(slow))

    monkeypatch.setattr(integrity, "content_damage", damage)
    files = [FileDigest(path=name, bytes=1, xxh3="0" * 32) for name in "ab"]
    began = time.monotonic()
    waits = [time.monotonic() - began for _ in integrity.verify_contents(tmp_path, files)]
    assert len(waits) >= 3
    assert max(b - a for a, b in itertools.pairwise([0.0, *waits])) < 2.0


def test_ranks_meet_while_one_of_them_writes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[float] = []

    def record(work: Iterator[None], heartbeat: Any, group: Any) -> None:
        for _ in work:
            met.append(time.monotonic())

    def slow(*given: Any) -> Any:
        time.sleep(2.5)
        return futures.Future()

    monkeypatch.setattr(digest_writer, "in_rounds", record)
    monkeypatch.setattr(FileSystemWriter, "write_data", slow)
    monkeypatch.setattr(futures.Future, "value", list, raising=False)
    began = time.monotonic()
    plan: Any = None
    DigestingWriter(tmp_path, bytes_to_write=1).write_data(plan, plan)
    assert len(met) == 2
    assert max(b - a for a, b in itertools.pairwise([began, *met])) < 2.0


def test_a_later_save_starts_no_thread_since_one_without_memory_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    monkeypatch.setattr(FileSystemWriter, "write_data", lambda *given: futures.Future())
    monkeypatch.setattr(futures.Future, "value", list, raising=False)
    plan: Any = None
    DigestingWriter(tmp_path, bytes_to_write=1).write_data(plan, plan)
    monkeypatch.setattr(threading.Thread, "start", fail)
    DigestingWriter(tmp_path, bytes_to_write=1).write_data(plan, plan)


def evaluate(batches: int, clock: list[float], beat: Heartbeat) -> None:
    class Slow(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            clock[0] += 600.0
            return SimpleNamespace(loss_sum=torch.tensor(1.0), correct=torch.tensor(1.0))

    stop: Any = SimpleNamespace(agree=lambda step, *values: list(values), agreed=False)
    inputs = [{"targets": torch.ones(1, 2, dtype=torch.int64)} for _ in range(batches)]
    evaluate_rows(Slow(), inputs, stop=stop, step=5, device=torch.device("cpu"), heartbeat=beat)


def test_a_long_evaluation_is_not_a_hang(tmp_path: Path, clock: list[float]) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.touch()
    watchdog = Watchdog(Tail.from_end(metrics), hang_seconds=1800, clock=0.0)
    evaluate(30, clock, Heartbeat(metrics, 1, 5, "evaluation"))
    records = Tail(metrics).read()
    assert len(records) == 30
    last = records[-1]
    assert isinstance(last, ProgressRecord)
    assert (last.activity, last.step, last.seconds) == ("evaluation", 5, 18_000.0)
    assert BEAT_SECONDS < 1800
    assert watchdog.silence_beyond_limit(clock[0]) is None


def test_a_short_evaluation_leaves_no_progress_record(tmp_path: Path, clock: list[float]) -> None:
    metrics = tmp_path / "metrics.jsonl"
    beat = Heartbeat(metrics, 1, 5, "evaluation")
    clock[0] += BEAT_SECONDS / 2
    beat()
    assert not metrics.exists()


def test_manifests_travel_between_ranks() -> None:
    manifest = CheckpointManifest(
        step=1, cursor_row=1, world_size=1, strategy="single", plan_digest="1" * 32, training={}, attempt=1,
        eval_loss=None, files=(),
    )  # fmt: skip
    assert collective._sendable(collective._Outcome(value=[(Path("a"), manifest)])).error is None
