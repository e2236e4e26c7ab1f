"""Pauses of garbage collection end where they should, and nested ones do not end them."""

from __future__ import annotations

import gc

import pytest

from gemfit.core.garbage import importing, no_collection


def test_collection_is_paused_until_the_outermost_end() -> None:
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_inside_ends_the_pause() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_what_was_imported_is_not_visited_again() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        made: list[list[int]] = [[] for _ in range(1000)]
    assert gc.get_freeze_count() >= frozen + len(made)
    assert gc.isenabled()
