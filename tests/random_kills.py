"""What the programs that kill random processes of a run share: its living processes, and the report."""

from __future__ import annotations

import collections
import random
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gemfit.schemas.metrics import StepRecord


def living(mark: str, kinds: Mapping[str, re.Pattern[str]]) -> dict[int, str]:
    """Processes with ``mark`` (``NAME=value``) in their environment: id, and kind or ``other``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                named = [kind for kind, pattern in kinds.items() if pattern.match(command)]
                found[int(folder.name)] = named[0] if named else "other"
    return found


def rarest(kinds: Sequence[str], kills: Sequence[str], chance: random.Random) -> str:
    """One of the ``kinds`` that were killed least so far: some live for a short time only."""
    fewest = min(map(kills.count, kinds))
    return chance.choice([kind for kind in kinds if kills.count(kind) == fewest])


def report(
    kills: Sequence[str],
    seconds: float,
    taken: Sequence[StepRecord],
    whole: Mapping[int, float],
    problems: Sequence[str],
) -> int:
    """Print what the ``kills`` have led to; 1 where something is wrong.

    ``seconds`` is the longest time until nothing was alive, ``whole`` the loss of each step of a run that was
    never killed.
    """
    differ = [record.step for record in taken if record.loss != whole.get(record.step)]
    if differ or {record.step for record in taken} != set(whole):
        problems = [*problems, f"steps that are missing, or differ from the run never killed: {differ}"]
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(collections.Counter(kills).items()))
    lines = [
        f"{len(kills)} kills ({counts}), nothing alive after {seconds:.1f} s at most",
        f"{len(taken)} steps taken, {len(whole)} different ones, {len(differ)} with another loss",
        *(f"PROBLEM: {problem}" for problem in problems),
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(bool(problems))
