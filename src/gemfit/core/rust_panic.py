"""Panics of libraries in Rust, which are no ``Exception`` in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RustPanicError(Exception):
    """A library in Rust has given up in the middle of a call."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic in the block, a ``BaseException`` of PyO3, into ``RustPanicError``."""
    try:
        yield
    except BaseException as error:
        # The class has no module that could be imported.
        if type(error).__name__ != "PanicException":
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), "no details")
        raise RustPanicError(first) from None
