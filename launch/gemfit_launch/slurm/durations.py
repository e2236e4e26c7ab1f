"""Parse durations in Slurm's notation."""

from __future__ import annotations

import re

DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


def seconds(duration: str) -> int | None:
    """Seconds of ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` or ``D-HH:MM:SS``.

    ``None`` for anything else: no limit (UNLIMITED, INFINITE, NONE), or INVALID.
    """
    found = DURATION.fullmatch(duration)
    if found is None:
        return None
    parts = [int(part) for part in found["clock"].split(":")]
    if found["days"] is None and len(parts) < 3:
        parts.insert(0, 0)  # begins with minutes, not with hours
    hours, minutes, rest = (*parts, 0, 0)[:3]
    return ((int(found["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + rest
