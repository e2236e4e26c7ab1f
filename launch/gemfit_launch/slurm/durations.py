"""Parse durations in Slurm's notation."""

from __future__ import annotations

import re

from gemfit.errors import UserError

DURATION = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<clock>[0-9]+(?::[0-9]+){0,2})")
NO_LIMIT = ("-1", "UNLIMITED", "INFINITE")
"""As sbatch takes them, in any case; so is every duration of zero."""


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


def asked_limit(time: str) -> int | None:
    """Seconds of a time limit as sbatch takes it; ``None`` for no limit. Anything else is a ``UserError``."""
    if time.upper() in NO_LIMIT:
        return None
    if (limit := seconds(time)) is None:
        raise UserError(f"{time} is not a time in the format of sbatch, such as 1-00:00:00")
    return limit or None
