"""Formatting of numbers, sizes, durations and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from gemfit.schemas.evaluation import Interval

NOTHING = "–"
IntervalFormat = Callable[[Interval, str], str]
"""Writes an interval; its second argument is the format of one number."""


def number(value: float | None, form: str = ",.4g") -> str:
    """``value`` in this form; a dash for ``None``."""
    return NOTHING if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """Such as ``1:02:03``, ``2:03`` or ``0.35 s``; a dash for what is no finite number."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:,}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def list_seconds(parts: Iterable[tuple[str, float]]) -> str:
    """Such as ``imports 3.1 s, weights 0.4 s``, in this order."""
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts)


def size(count: float | None) -> str:
    """Such as ``12.3 GB``; a gigabyte is 10⁹ bytes."""
    if count is None:
        return NOTHING
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def interval(found: Interval, form: str = ".4f") -> str:
    """Such as ``3.1416 [3.1000, 3.2000]``."""
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def plus_minus(found: Interval, form: str = ".4f") -> str:
    """Such as ``3.1416 ± 0.0500``: half the width of the interval."""
    return f"{found.value:{form}} ± {(found.high - found.low) / 2:{form}}"


def plural(count: int, what: str) -> str:
    """Such as ``1 step`` and ``1,200 steps``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(items: list[str]) -> str:
    """Such as ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
