"""Batches are made ahead: in order, bounded, and without a thread that stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from gemfit.train.data.prefetch_loader import POLL_SECONDS, PrefetchLoader, prefetch


class Counted(IterableDataset[dict[str, Any]]):
    """Batches that say how many of them were made."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.count):
            self.made += 1
            yield {"input_ids": torch.tensor([number]), "rows": [number]}


def same(item: Any) -> Any:
    return item


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batches_come_in_the_order_of_the_dataset() -> None:
    batches = list(PrefetchLoader(Counted(50), depth=3, pin=False))
    assert [batch["rows"] for batch in batches] == [[number] for number in range(50)]
    assert [int(batch["input_ids"]) for batch in batches] == list(range(50))


def test_no_more_is_made_than_the_depth_allows() -> None:
    source = Counted(100)
    iterator = iter(PrefetchLoader(source, depth=4, pin=False))
    next(iterator)
    wait_for(lambda: source.made >= 6)
    time.sleep(3 * POLL_SECONDS)
    assert source.made == 6, "one was taken, four wait, and one is in the thread's hand"
    iterator.close()


def test_a_loader_draws_the_same_random_number_as_a_plain_one() -> None:
    torch.manual_seed(1)
    list(torch.utils.data.DataLoader(Counted(3), batch_size=None))
    expected = torch.get_rng_state()
    torch.manual_seed(1)
    list(PrefetchLoader(Counted(3), depth=2, pin=False))
    assert torch.equal(torch.get_rng_state(), expected)


def test_an_error_is_raised_where_its_batch_would_have_been() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("a row that cannot be read")

    taken = prefetch(source(), 4, same)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="a row that cannot be read"):
        next(taken)


def test_the_prefetch_thread_ends_with_its_consumer() -> None:
    before = set(threads())  # those of other tests may end in between
    iterator = prefetch(iter(range(10**6)), 2, same)
    next(iterator)
    (thread,) = set(threads()) - before
    iterator.close()  # type: ignore[attr-defined]  # a generator
    wait_for(lambda: not thread.is_alive())


@pytest.mark.slow
def test_records_tell_the_wait_for_data_and_the_order_is_that_of_the_plan(launch: Any) -> None:
    attempts = launch("single", 1)
    assert all(record.data_seconds is not None for record in attempts.steps)
    assert all(0 <= (record.data_seconds or 0) < 5 for record in attempts.steps)
