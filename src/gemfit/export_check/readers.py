"""Readers of an exported folder, each in a process of its own, and the comparison with the run's model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gemfit.export_check import probe
from gemfit.export_check.expected import ExpectedValues
from gemfit.schemas.base import Contract

TOLERANCE = 1e-3
"""Largest difference of the mean loss, in nats per token: rounding in float32 is below a tenth of it."""


class ReaderOutcome(Contract):
    """What one reader made of an export."""

    reader: str
    state: Literal["equal", "different", "failed", "absent"]
    found: str
    loss: float | None = None
    """Mean over the labelled tokens, in nats."""


@dataclass(frozen=True, slots=True)
class ExportReader:
    """A program that loads the folder."""

    name: str
    kind: Literal["transformers", "peft"]
    python: str = sys.executable
    case: dict[str, Any] = field(default_factory=dict)
    """Further input of ``probe``."""
    absent: str = ""
    """Why it cannot be asked; empty where it can."""


def readers_of(folder: Path, pythons: Sequence[Path], base: dict[str, Any]) -> Iterator[ExportReader]:
    """The readers of what ``folder`` holds; ``pythons`` are of environments with another transformers."""
    if (folder / "adapter_config.json").is_file():
        absent = "" if find_spec("peft") else "peft is not installed"
        yield ExportReader("peft", "peft", case=base, absent=absent)
        for python in pythons:
            yield ExportReader(f"peft of {python}", "peft", str(python), case=base)
        return
    yield ExportReader("transformers", "transformers")
    for python in pythons:
        yield ExportReader(f"transformers of {python}", "transformers", str(python))
    if not pythons:
        why = "no other environment was named: --python PATH"
        yield ExportReader("transformers 4", "transformers", absent=why)


def check_reader(reader: ExportReader, folder: Path, expected: ExpectedValues) -> ReaderOutcome:
    """Ask ``reader``, and compare."""
    if reader.absent:
        return ReaderOutcome(reader=reader.name, state="absent", found=reader.absent)
    case = {"folder": str(folder.absolute()), **expected.case, **reader.case}
    script = [reader.python, "-P", str(Path(probe.__file__)), reader.kind]
    try:
        done = subprocess.run(script, input=json.dumps(case), capture_output=True, text=True, check=False)
    except OSError as error:
        return ReaderOutcome(reader=reader.name, state="failed", found=f"{reader.python}: {error.strerror}")
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return ReaderOutcome(reader=reader.name, state="failed", found=lines[-1] if lines else "no output")
    return compare(reader.name, json.loads(done.stdout.splitlines()[-1]), expected)


def compare(name: str, found: dict[str, Any], expected: ExpectedValues) -> ReaderOutcome:
    """Losses within ``TOLERANCE`` per token; prompts, greedy replies and stop tokens equal."""
    tokens = sum(expected.labelled)
    loss, own = sum(found["losses"]) / tokens, sum(expected.losses) / tokens
    worst = max(
        abs(a - b) / count
        for a, b, count in zip(found["losses"], expected.losses, expected.labelled, strict=True)
    )
    differences = []
    if not worst <= TOLERANCE:
        differences.append(
            f"loss {loss:.5f}, the run's is {own:.5f} (one conversation differs by {worst:.2g})"
        )
    differences += _differences("prompt", found["prompts"], expected.prompts)
    differences += _differences("greedy reply", found["replies"], expected.replies)
    if found["stops"] != expected.stops:
        differences.append(f"stops at {found['stops']}, the run at {expected.stops}")
    ends = sum(bool(reply) and reply[-1] in expected.stops for reply in expected.replies)
    said = "; ".join(differences) or (
        f"loss {loss:.5f} (largest difference {worst:.1g}), {len(expected.replies)} greedy replies equal, "
        f"{ends} of them to the stop token"
    )
    state: Literal["equal", "different"] = "different" if differences else "equal"
    version = found["version"]
    return ReaderOutcome(reader=f"{name} {version}", state=state, found=said, loss=loss)


def _differences(what: str, found: list[list[int]], expected: list[list[int]]) -> list[str]:
    """The first pair of lists that differs."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True), start=1):
        if one != other:
            pairs = enumerate(zip(one, other, strict=False))
            place = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
            return [f"{what} {number} differs from token {place + 1} on"]
    return []
