"""A checkpoint's copy to host memory: in which order GPU and host wait, and the pinned buffer's life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import SaveRecord
from gemfit.train.checkpoint import host_copy
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState

COPY, COMPUTE = "copy stream", "compute stream"


class Recorder:
    """``torch.cuda`` as a copy sees it: streams and events write down what is asked of them, in order."""

    def __init__(self) -> None:
        self.seen, self.current = list[str](), COMPUTE
        self.error: Exception | None = None

    def launch_kernel(self) -> None:
        """Raises an earlier error, once: CUDA keeps the last one until somebody asks for it."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def stream_named(self, name: str) -> Any:
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.seen.append(f"{name} waits for {other.name}"),
            wait_event=lambda event: self.seen.append(f"{name} waits for {event.recorded}"),
        )

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.current = stream.name
        yield
        self.current = COMPUTE

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(recorded="", elapsed_time=lambda other: 250.0)
        event.record = lambda: setattr(event, "recorded", f"event on {self.current}")
        event.synchronize = lambda: self.seen.append(
            f"{threading.current_thread().name} waits for {event.recorded}"
        )
        return event

    @contextmanager
    def watch_copies(self) -> Iterator[None]:
        recorder = self

        class Watch(TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if function is torch.Tensor.copy_ and (kwargs or {}).get("non_blocking"):
                    recorder.seen.append(f"copied on {recorder.current}")
                return function(*args, **(kwargs or {}))

        with Watch():
            yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Tensors of the training are on a GPU, as far as the copy can tell."""
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "Stream", lambda: recorder.stream_named(COPY))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: recorder.stream_named(recorder.current))
    monkeypatch.setattr(torch.cuda, "stream", recorder.stream)
    monkeypatch.setattr(torch.cuda, "Event", recorder.event)
    monkeypatch.setattr(host_copy, "launch_kernel", recorder.launch_kernel)
    monkeypatch.setattr(host_copy, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(host_copy, "pin_memory", lambda at, size: recorder.seen.append(f"pinned {at:x}"))
    monkeypatch.setattr(host_copy, "unpin_memory", lambda at: recorder.seen.append(f"unpinned {at:x}"))
    return recorder


def training_state(*, fused: bool = False) -> TrainingState:
    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused, foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    accelerator: Any = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    return TrainingState(model=model, optimizer=optimizer, scheduler=scheduler, accelerator=accelerator)


def saver(root: Path, commits: list[SaveRecord], *, asynchronous: bool = True) -> Saver:
    run = RunDir(root)
    run.checkpoints.mkdir()
    context = SaveContext(attempt=1, strategy="single", plan_digest="1" * 32, training={}, keep=1)
    return Saver(run, context, asynchronous=asynchronous, on_commit=commits.append)


def step(training: TrainingState, gpu: Recorder) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.register_step_post_hook(lambda *_: gpu.seen.append("stepped"))
    training.optimizer.step()


def test_the_gpu_copies_after_what_it_was_given_and_steps_after_the_copy(
    tmp_path: Path, gpu: Recorder
) -> None:
    training, commits = training_state(), list[SaveRecord]()
    with gpu.watch_copies(), saver(tmp_path, commits) as saving:
        saving.save(training, step=1, cursor_row=1, eval_loss=None)
        before = list(gpu.seen)
        step(training, gpu)
    pinned, *copied = (event for event in before if not event.startswith("checkpoint_0"))
    assert copied == [f"{COPY} waits for {COMPUTE}", *[f"copied on {COPY}"] * 4]  # weights, step, two moments
    assert gpu.seen.count(f"checkpoint_0 waits for event on {COPY}") == 1
    of_training = [event for event in gpu.seen if not event.startswith("checkpoint_0")]
    assert of_training[len(copied) + 1 :] == [
        f"{COMPUTE} waits for event on {COPY}",
        "stepped",
        pinned.replace("pinned", "unpinned"),
    ]
    (record,) = commits
    assert (record.copied_bytes, record.copy_seconds) == (3 * 4 * 4 * 4 + 4, 0.25)


def test_the_pinned_buffer_serves_all_saves_and_is_freed_once(tmp_path: Path, gpu: Recorder) -> None:
    training, commits = training_state(), list[SaveRecord]()
    with saver(tmp_path, commits) as saving:
        for number in (1, 2, 3):
            saving.save(training, step=number, cursor_row=number, eval_loss=None)
    assert [event.partition(" ")[0] for event in gpu.seen if "pinned" in event] == ["pinned", "unpinned"]
    gpu.seen.clear()
    step(training, gpu)
    assert gpu.seen == ["stepped"]  # nothing is waited for after the last save


@pytest.mark.parametrize("fails", [True, False])
def test_the_buffer_is_freed_when_the_training_or_a_save_fails(
    tmp_path: Path, gpu: Recorder, fails: bool
) -> None:
    saving = saver(tmp_path, [])

    def train() -> None:
        with saving:
            saving.save(training_state(), step=1, cursor_row=1, eval_loss=None)
            if fails:
                raise ZeroDivisionError

    if not fails:
        (tmp_path / "checkpoints").rmdir()
        (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(ZeroDivisionError if fails else OSError):
        train()
    assert gpu.seen[-1].startswith("unpinned")


def test_what_cannot_be_pinned_is_copied_with_a_warning(
    gpu: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(at: int, size: int) -> None:
        gpu.error = RuntimeError("CUDA error: out of memory")
        raise RuntimeError("Registering memory failed with cudaError: 2")

    monkeypatch.setattr(host_copy, "pin_memory", refuse)
    memory, values = HostMemory(), torch.arange(5.0)
    with caplog.at_level(logging.WARNING):
        copies = [memory.copy({"w": values}, everything=True) for _ in range(2)]
    memory.release()
    assert torch.equal(copies[1].state["w"], values)  # type: ignore[arg-type]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be pinned" in caplog.text
    gpu.launch_kernel()  # that of the next step, which has not failed


def test_tensors_of_any_dtype_lie_next_to_each_other_in_one_buffer() -> None:
    state: Any = {
        "a": torch.arange(3, dtype=torch.bfloat16),
        "b": FlatShard(torch.arange(7.0), 2, torch.Size([3, 4])),
        "empty": FlatShard(torch.empty(0), 0, torch.Size([3, 4])),
        "step": torch.tensor(5.0),
        "codes": torch.arange(9, dtype=torch.uint8),
    }
    memory = HostMemory()
    first = memory.copy(state, everything=True)
    assert first.wait() >= 0
    assert first.bytes == 3 * 2 + 7 * 4 + 4 + 9
    for name, value in state.items():
        found: Any = first.state[name]
        pair = (value.flat, found.flat) if isinstance(value, FlatShard) else (value, found)
        assert torch.equal(*pair), name
        assert pair[0].dtype == pair[1].dtype
        assert not isinstance(value, FlatShard) or (found.start, found.shape) == (value.start, value.shape)
    state["a"] += 1
    again: Any = memory.copy(state, everything=True).state
    assert again["a"].data_ptr() == first.state["a"].data_ptr()  # type: ignore[union-attr]
    assert again["a"].tolist() == [1, 2, 3]


def test_a_view_of_host_memory_takes_no_buffer() -> None:
    values = torch.arange(4.0)
    copy = HostMemory().copy({"w": values}, everything=False)
    assert copy.bytes == 0
    values += 1
    assert torch.equal(copy.state["w"], values)  # type: ignore[arg-type]
