"""A slow rank is named, and noise names none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from forked_ranks_environment import SLOW_BATCHES, SLOW_LAYERS, SLOW_NETWORK
from gemfit.schemas.metrics import SlowRankRecord, parse_record
from gemfit.train.loop.layer_timer import LayerTimer
from gemfit.train.loop.slow_rank import (
    STEPS,
    LocalTime,
    SlowRankDetector,
    to_slots,
    typical,
    waiting_seconds,
)

if TYPE_CHECKING:
    from train.conftest import Launch

STEP_SECONDS = 1.0
CLEAN_STEPS = 2000


def noisy(ranks: int, steps: int, noise: float, seed: int) -> Any:
    """Times of equal ranks: (steps, causes, ranks); now and then a rank is held up for a step."""
    rng = np.random.default_rng(seed)
    times = rng.lognormal(0.0, noise, (steps, 2, ranks)) * np.array([[0.3], [0.02]])
    return times + (rng.random(times.shape) < 0.02) * 2.0


@settings(max_examples=30)
@given(
    ranks=st.integers(1, 32),
    noise=st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_rank_is_named_in_2000_noisy_steps(ranks: int, noise: float, seed: int) -> None:
    detector = SlowRankDetector(ranks)
    for times in noisy(ranks, CLEAN_STEPS, noise, seed):
        assert detector.add(times, STEP_SECONDS) == []


@given(
    ranks=st.integers(2, 32),
    cause=st.sampled_from([0, 1]),
    since=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_slow_rank_is_named_once_after_20_steps(
    ranks: int, cause: int, since: int, seed: int, data: st.DataObject
) -> None:
    slow = data.draw(st.integers(0, ranks - 1))
    times = np.random.default_rng(seed).normal(1.0, 0.01, (since + 3 * STEPS, 2, ranks))
    times *= np.array([[0.3], [0.02]])
    times[since:, cause, slow] += 0.09
    detector, named = SlowRankDetector(ranks), {}
    for step, of_step in enumerate(times):
        for found in detector.add(of_step, STEP_SECONDS):
            named[step] = found
    assert list(named) == [since + STEPS - 1]
    (found,) = named.values()
    assert (found.rank, found.cause) == (slow, ("compute", "input")[cause])
    assert found.seconds - found.others_seconds == pytest.approx(0.09, abs=0.01)


def test_all_ranks_of_a_slow_node_are_named() -> None:
    times = np.full((2, 16), 0.1)
    times[0, 8:] = 0.15
    detector = SlowRankDetector(16)
    found = [one for _ in range(STEPS) for one in detector.add(times, STEP_SECONDS)]
    assert [(one.rank, one.cause) for one in found] == [(rank, "compute") for rank in range(8, 16)]
    assert all(one.seconds - one.others_seconds == pytest.approx(0.05) for one in found)


def test_what_the_ranks_wait_is_the_distance_to_the_slowest() -> None:
    slots = np.sum([to_slots(LocalTime(r, 0.5), r, 3) for r in range(3)], axis=0)
    times = slots.reshape(2, 3)
    assert times.tolist() == [[0, 1, 2], [0.5, 0.5, 0.5]]
    assert waiting_seconds(times) == pytest.approx((2 + 1 + 0) / 3)
    assert typical(times).tolist() == [[1], [0.5]]


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(states)
        return found


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The clock of the timer, which advances by one with each reading."""
    clock = iter(range(1000))
    monkeypatch.setattr("gemfit.train.loop.layer_timer.time.perf_counter", lambda: float(next(clock)))
    return clock


@pytest.mark.parametrize("leaves", [False, True])
def test_layers_are_timed_in_training_and_not_in_evaluation(leaves: bool, ticks: Iterator[int]) -> None:
    model, timer = (
        torch.nn.Sequential(Layer(), Layer(), torch.nn.Linear(4, 4)),
        LayerTimer(torch.device("cpu")),
    )
    timer.watch(model, ["Layer"], leaves=leaves)
    model(torch.ones(1, 4))
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert timer.take() == 2.0  # two layers, a tick of the clock each
    assert timer.take() == 0.0


@pytest.mark.parametrize("prepend", [False, True], ids=["zero3", "fsdp2"])
@pytest.mark.parametrize("leaves", [False, True])
def test_what_an_engine_gathers_before_and_after_a_module_is_not_in_its_time(
    leaves: bool, prepend: bool, ticks: Iterator[int]
) -> None:
    layers, timer = [Layer(), Layer()], LayerTimer(torch.device("cpu"))
    model = torch.nn.Sequential(*layers)
    timer.watch(model, ["Layer"], leaves=leaves)
    timed: list[torch.nn.Module] = [layer.inner if leaves else layer for layer in layers]
    for module in timed:
        module.register_forward_pre_hook(lambda *_: [next(ticks) for _ in range(5)] and None, prepend=prepend)
        module.register_forward_hook(lambda *_: [next(ticks) for _ in range(5)] and None)
    model(torch.ones(1, 4))
    assert next(ticks) == 2 * (2 + 10)
    assert timer.take() == 2.0


@pytest.mark.parametrize("early_stop", [False, True])
def test_recomputed_layers_count_again(early_stop: bool, ticks: Iterator[int]) -> None:
    layer, timer = Layer(), LayerTimer(torch.device("cpu"))
    timer.watch(layer, ["Layer"], leaves=False)
    found = checkpoint(layer, torch.ones(1, 4), use_reentrant=False, early_stop=early_stop)
    found.sum().backward()
    assert timer.take() == 2.0


def test_on_a_gpu_events_are_recorded_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = iter(range(100)), []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            made.append(self)

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, end: Event) -> float:
            return 1000.0 * (end.at - self.at)

    monkeypatch.setattr("torch.cuda.Event", Event)
    model, timer = torch.nn.Sequential(Layer(), Layer()), LayerTimer(torch.device("cuda"))
    timer.watch(model, ["Layer"], leaves=False)
    for _ in range(3):
        model(torch.ones(1, 4))
        assert timer.take() == 2.0
    assert len(made) == 4


@pytest.mark.dist
@pytest.mark.slow
def test_delays_in_compute_input_network_are_named(
    fresh_run: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SLOW_LAYERS, "2:0.03")
    monkeypatch.setenv(SLOW_BATCHES, "1:0.3")
    monkeypatch.setenv(SLOW_NETWORK, "3:0.1")
    attempts = fresh_run("fsdp2", 4, length__max_steps=STEPS + 6, checkpoint__every_steps=100)
    assert attempts.train().returncode == 0, attempts.log()
    lines = map(parse_record, attempts.run.metrics_file.read_text().splitlines())
    found = [record for record in lines if isinstance(record, SlowRankRecord)]
    assert {(record.rank, record.cause) for record in found} == {(2, "compute"), (1, "input"), (3, "network")}
    for record in found:
        assert record.step <= STEPS + 6
        assert record.seconds > record.others_seconds
    assert all(record.text in attempts.log() for record in found)
    waits = [step.wait_seconds for step in attempts.steps[6:]]
    assert min(wait for wait in waits if wait is not None) > 0.05
