"""A rank whose network is slow is named by its messages, and noise names none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.train.loop.network_probe import (
    EVERY,
    IN_A_ROW,
    NetworkProbe,
    SlowNetworkDetector,
    gradient_bytes,
    shifts,
)
from gemfit.train.loop.slow_rank import STEPS

STEP_SECONDS, MESSAGE, CLEAN_STEPS = 1.0, 2**20, 2000


def exchanges(ranks: int, count: int, noise: float, rng: Any) -> Any:
    """Times of the messages that equal ranks get: (exchanges, ranks); now and then one is held up."""
    times = rng.lognormal(0.0, noise, (count, ranks)) * 0.002
    return times + (rng.random(times.shape) < 0.02) * 2.0


@settings(max_examples=30)
@given(
    ranks=st.integers(3, 32),
    noise=st.sampled_from([0.01, 0.1, 0.3, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_rank_is_named_in_2000_noisy_steps(ranks: int, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    detector, ways = SlowNetworkDetector(ranks, 4000 * MESSAGE, MESSAGE), shifts(ranks, ranks)
    for number, received in enumerate(exchanges(ranks, CLEAN_STEPS // EVERY, noise, rng)):
        assert detector.add(received, ways[number % len(ways)], STEP_SECONDS) == []


@pytest.mark.parametrize("direction", ["sends", "receives"])
@given(ranks=st.integers(4, 32), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_rank_that_sends_or_receives_slowly_is_named_once_and_within_20_steps(
    direction: str, ranks: int, seed: int, data: st.DataObject
) -> None:
    slow = data.draw(st.integers(0, ranks - 1))
    detector, ways = SlowNetworkDetector(ranks, 0, MESSAGE), shifts(ranks, ranks)
    received = np.random.default_rng(seed).normal(0.002, 0.0001, (4 * IN_A_ROW, ranks))
    named = {}
    for number, times in enumerate(received):
        shift = ways[number % len(ways)]
        times[slow if direction == "receives" else (slow + shift) % ranks] += 0.03
        for found in detector.add(times, shift, STEP_SECONDS):
            named[number] = found
    assert list(named) == [IN_A_ROW - 1]
    (found,) = named.values()
    assert found.rank == slow
    assert found.seconds - found.others_seconds == pytest.approx(0.03, abs=0.001)
    assert IN_A_ROW * EVERY + 1 <= STEPS


@pytest.mark.parametrize("ranks", [3, 4, 7])
def test_a_rank_that_is_slow_both_ways_is_the_only_one_named(ranks: int) -> None:
    detector, ways, named = SlowNetworkDetector(ranks, 0, MESSAGE), shifts(ranks, ranks), []
    for number in range(6 * IN_A_ROW):
        received, shift = np.full(ranks, 0.002), ways[number % len(ways)]
        received[[1, (1 + shift) % ranks]] = 0.1
        if ranks > 3:  # sending may wait for a rank that is slow to get
            received[(1 - shift) % ranks] = 0.1
        named += [found.rank for found in detector.add(received, shift, STEP_SECONDS)]
    assert named == [1]


def test_one_slow_way_between_two_ranks_names_neither() -> None:
    detector, ways = SlowNetworkDetector(4, 4000 * MESSAGE, MESSAGE), shifts(4, 4)
    for number in range(60):
        received, shift = np.full(4, 0.002), ways[number % 3]
        received[2] += 0.05 * (shift == 1)  # from rank 1 to rank 2
        assert detector.add(received, shift, STEP_SECONDS) == []


def test_little_is_a_slow_network_where_a_step_sends_many_such_messages() -> None:
    received = np.full(4, 0.001)
    received[3] = 0.004
    for step_bytes, count in ((0, 0), (100 * MESSAGE, 1)):
        detector = SlowNetworkDetector(4, step_bytes, MESSAGE)
        found = [one for _ in range(IN_A_ROW) for one in detector.add(received, 1, STEP_SECONDS)]
        assert len([one for one in found if one.rank == 3]) == count


def test_messages_go_to_other_hosts_where_there_are_several() -> None:
    assert shifts(4, 4) == (1, 2, 3)
    assert shifts(32, 8) == (8, 16, 24)
    assert shifts(512, 8) == (8, 16, 24, 32)
    # With one partner it is open which of the two is slow.
    assert shifts(16, 8) == shifts(2, 2) == shifts(2, 1) == shifts(1, 1) == ()


def test_messages_are_in_host_memory_and_go_over_sockets_whatever_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Any] = []

    class Request:
        def wait(self) -> None:
            events.append("wait")

    def message(way: str) -> Any:
        def go(tensor: torch.Tensor, peer: int, group: Any) -> Request:
            events.append((way, tensor.device.type, peer, group))
            return Request()

        return go

    monkeypatch.setattr("torch.distributed.new_group", lambda backend, timeout: f"group of {backend}")
    for way in ("irecv", "isend"):
        monkeypatch.setattr(f"torch.distributed.{way}", message(way))
    probe = NetworkProbe(rank=1, ranks=4, ranks_per_host=4)
    for step in range(1, EVERY + 1):
        probe.after_step(step)
    group = "group of gloo"
    assert events == [("irecv", "cpu", 3, group), ("isend", "cpu", 3, group), "wait", "wait"]
    assert probe.slots() == [0.0, probe.seconds, 0.0, 0.0]
    probe.after_step(EVERY + 1)
    assert probe.slots() == [0.0] * 4


def test_gradients_are_those_of_trained_parameters() -> None:
    model = torch.nn.Linear(3, 5)
    model.bias.requires_grad_(False)
    assert gradient_bytes(model) == 2 * 15
    setattr(model.weight, "ds_numel", 60)  # noqa: B010
    assert gradient_bytes(model) == 2 * 60
