"""Threads of a rank make CUDA calls on the rank's own GPU, if at all; and groups have a stated timeout."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem

from gemfit.rundir import RunDir
from gemfit.train.checkpoint import async_saver
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState
from gemfit.train.collective import COLLECTIVE_TIMEOUT
from gemfit.train.data.prefetch_loader import prefetch

SOURCE = Path(async_saver.__file__).parents[1]
RANK = 3


class Device:
    """``torch.cuda`` as threads see it: the current device of each begins at 0; streams record their use."""

    def __init__(self) -> None:
        self.local, self.used = threading.local(), list[str]()

    def current_device(self) -> int:
        return getattr(self.local, "device", 0)

    def set_device(self, device: int) -> None:
        self.local.device = device

    def current_stream(self) -> Any:
        return self._stream()

    def stream(self, stream: Any) -> Any:
        return self._stream()

    def _stream(self) -> Any:
        self.used.append(f"{threading.current_thread().name} uses cuda:{self.current_device()}")
        return Stream(self._stream)


class Stream:
    def __init__(self, record: Any) -> None:
        self.synchronize = self.wait_stream = record

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """CUDA is there, initialized, and this thread trains on GPU 3."""
    device = Device()
    device.set_device(RANK)
    for name in ("is_available", "is_initialized"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", device.current_device)
    monkeypatch.setattr(torch.cuda, "set_device", device.set_device)
    monkeypatch.setattr(filesystem, "_get_available_device_type", lambda: "cuda")
    monkeypatch.setattr(filesystem, "_get_device_module", lambda kind: device)
    return device


def saver(root: Path, *, asynchronous: bool, **options: Any) -> Saver:
    run = RunDir(root)
    run.checkpoints.mkdir()
    context = SaveContext(attempt=1, strategy="single", plan_digest="1" * 32, training={}, keep=1)
    return Saver(run, context, asynchronous=asynchronous, **options)


def training_state() -> TrainingState:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), fused=False, foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    accelerator: Any = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    return TrainingState(model=model, optimizer=optimizer, scheduler=scheduler, accelerator=accelerator)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_writing_a_checkpoint_touches_no_gpu(tmp_path: Path, device: Device, asynchronous: bool) -> None:
    devices: list[int] = []
    commits = saver(
        tmp_path, asynchronous=asynchronous, on_commit=lambda record: devices.append(device.current_device())
    )
    with commits:
        commits.save(training_state(), step=1, cursor_row=1, eval_loss=None)
    assert device.used == []
    assert devices == [RANK]


def test_a_save_that_training_waits_for_shows_that_it_is_alive(tmp_path: Path) -> None:
    beats: list[None] = []
    commits = saver(tmp_path, asynchronous=False, make_heartbeat=lambda: lambda: beats.append(None))
    with commits:
        commits.save(training_state(), step=1, cursor_row=1, eval_loss=None)
    assert beats


def test_so_does_an_asynchronous_one_once_training_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[None] = []
    beats_while_training: list[int] = []
    returned, looked = threading.Event(), threading.Event()

    def write(*_: Any, heartbeat: Callable[[], None]) -> int:
        returned.wait()
        heartbeat()
        beats_while_training.append(len(beats))
        looked.set()
        deadline = time.monotonic() + 20
        while not beats and time.monotonic() < deadline:
            heartbeat()
        return 0

    monkeypatch.setattr(async_saver, "write", write)
    commits = saver(tmp_path, asynchronous=True, make_heartbeat=lambda: lambda: beats.append(None))
    with commits:
        commits.save(training_state(), step=1, cursor_row=1, eval_loss=None)
        returned.set()
        looked.wait()
    assert beats_while_training == [0]
    assert beats


def test_the_prefetch_thread_works_on_the_gpu_of_its_rank(device: Device) -> None:
    assert list(prefetch(range(2), 1, lambda item: device.current_device())) == [RANK, RANK]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_only_asynchronous_saves_have_a_group_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "new_group", lambda **options: groups.append(options))
    saver(tmp_path, asynchronous=asynchronous)
    assert groups == ([{"backend": "gloo", "timeout": COLLECTIVE_TIMEOUT}] if asynchronous else [])
    assert timedelta(minutes=1) < COLLECTIVE_TIMEOUT < timedelta(hours=1)


def calls(*names: str) -> Iterator[tuple[Path, str, ast.Call]]:
    """File, module text and node of each call of a function of one of these names."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
                yield path, text, node


def test_every_thread_of_training_selects_its_device() -> None:
    found = list(calls("Thread", "ThreadPoolExecutor"))
    assert found
    assert [path for path, text, _ in found if "device_setter()" not in text] == []


def test_every_group_of_training_has_a_timeout() -> None:
    found = list(calls("new_group", "init_process_group"))
    assert found
    assert [path for path, _, call in found if "timeout" not in {word.arg for word in call.keywords}] == []
