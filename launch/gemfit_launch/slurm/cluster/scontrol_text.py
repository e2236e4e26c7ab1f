"""Values in the output of scontrol: pairs, lists, memory, GRES. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

PAIR = re.compile(r"(?:^|(?<=\s))([A-Za-z_:]+)=(.*?)(?=\s+[A-Za-z_:]+=|\s*$)")


def pairs(line: str) -> dict[str, str]:
    """``Key=value`` pairs of one line of scontrol; a value may contain blanks."""
    return {name: value for name, value in PAIR.findall(line) if value != "(null)"}


def comma_list(text: str) -> tuple[str, ...]:
    """Split at commas outside of parentheses."""
    return tuple(part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip())


def megabytes(text: str) -> int | None:
    """Memory in sbatch notation (``500G``, ``4000``) in MiB; ``None`` for anything else."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    factors = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}
    return int(int(found[1]) * factors[found[2]]) if found else None


def parse_gpus(gres: Iterable[str]) -> dict[str, int]:
    """Number of GPUs by kind in GRES such as ``gpu:h100:8(S:0-1)``."""
    gpus: dict[str, int] = {}
    for entry in gres:
        name, *rest = [part for part in entry.partition("(")[0].split(":") if part != "no_consume"]
        if name == "gpu":
            *kinds, count = rest if rest and rest[-1].isdecimal() else [*rest, "1"]
            kind = ":".join(kinds)
            gpus[kind] = gpus.get(kind, 0) + int(count)
    return {kind: count for kind, count in gpus.items() if count}


def is_mig(kind: str) -> bool:
    """Whether a kind is a MIG slice: ``1g.10gb``, ``a100_3g.20gb`` or, as sites name them, ``mig-1g5gb``."""
    return re.search(r"(?:^|[^0-9])[1-7]g[._-]?[0-9]+gb", kind, re.IGNORECASE) is not None
