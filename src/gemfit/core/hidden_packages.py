"""Hide installed packages from libraries that would import them although nothing uses them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Packages that look as if they were not installed inside; those imported before are left alone."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: "not found", see importlib
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
