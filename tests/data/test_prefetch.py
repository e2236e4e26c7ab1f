"""Prefetch: items keep their order, and only the given number is prefetched."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl.prefetch import prefetch


@given(items=st.lists(st.integers(), max_size=20), count=st.integers(1, 5))
def test_prefetching_changes_neither_items_nor_order(items: list[int], count: int) -> None:
    assert list(prefetch(iter(items), count)) == items


def test_the_next_items_are_prefetched_while_one_is_used() -> None:
    made, third = list[int](), threading.Event()

    def stream() -> Iterator[int]:
        for number in range(1, 10):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    items = prefetch(stream(), count=2)
    assert next(items) == 1
    assert third.wait(10), "two are made beyond the one that is used"
    items.close()  # type: ignore[attr-defined]
    assert made == [1, 2, 3]


def test_items_before_an_error_are_not_lost() -> None:
    def stream() -> Iterator[str]:
        yield "one"
        yield "two"
        raise OSError("broken")

    items = prefetch(stream())
    assert [next(items), next(items)] == ["one", "two"]
    with pytest.raises(OSError, match="broken"):
        next(items)
