"""Readers of an exported folder, each in a process of its own, and the comparison with the run's model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gemfit.core.process_group import MODEL_READER_SECONDS, run_with_children
from gemfit.export_check.expected import ExpectedValues
from gemfit.schemas.base import Contract

ReaderKind = Literal["transformers", "peft", "serve", "vllm"]
SCRIPTS: dict[ReaderKind, str] = {
    "transformers": "probe.py",
    "peft": "probe.py",
    "serve": "probe_serve.py",
    "vllm": "probe_vllm.py",
}
SERVERS: dict[ReaderKind, tuple[str, tuple[str, ...]]] = {
    "serve": (
        "OpenAI client of transformers serve",
        ("transformers", "transformers.cli", "fastapi", "uvicorn", "pydantic", "rich", "openai"),
    ),
    "vllm": ("vLLM", ("vllm",)),
}
"""Readers that are asked in every environment with these packages: name, packages.

Transformers 4 has no ``transformers.cli``; its server takes other options.
"""

LOOK_SECONDS = 60.0
"""Time limit of looking for packages in an environment."""
TOLERANCE = 1e-3
"""Largest difference of the mean loss, in nats per token: rounding in float32 is below a tenth of it."""


class ReaderOutcome(Contract):
    """What one reader made of an export."""

    reader: str
    state: Literal["equal", "different", "failed", "absent"]
    found: str
    loss: float | None = None
    """Mean over the labelled tokens, in nats; ``None`` where a reader gives texts alone."""


@dataclass(frozen=True, slots=True)
class ExportReader:
    """A program that loads the folder."""

    name: str
    kind: ReaderKind
    python: str = sys.executable
    case: dict[str, Any] = field(default_factory=dict)
    """Further input of the script."""
    absent: str = ""
    """Why it cannot be asked; empty where it can."""


def readers_of(folder: Path, pythons: Sequence[Path], base: dict[str, Any]) -> Iterator[ExportReader]:
    """The readers of what ``folder`` holds; ``pythons`` are of other environments."""
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
    for kind in SERVERS:
        yield from _servers(kind, pythons)


def _servers(kind: ReaderKind, pythons: Sequence[Path]) -> Iterator[ExportReader]:
    """A reader for each environment, this one and those of ``pythons``, that has the packages of ``kind``."""
    name, packages = SERVERS[kind]
    missing = {python: _missing(python, packages) for python in (sys.executable, *map(str, pythons))}
    for python, lacks in missing.items():
        if not lacks:
            place = "" if python == sys.executable else f" of {python}"
            yield ExportReader(f"{name}{place}", kind, python)
    if all(missing.values()):
        here = f"not installed here: {', '.join(missing[sys.executable])}"
        other = "; nor is it complete in an environment of --python" if pythons else ""
        yield ExportReader(name, kind, absent=here + other)


MISSING = """
import importlib.util, sys

def is_missing(name):
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:  # the package around it
        return True

print("\\n", *(f"is-missing:{name}" for name in sys.argv[1:] if is_missing(name)))
"""


def _missing(python: str, packages: Sequence[str]) -> list[str]:
    """Those of ``packages`` that an environment lacks; all where its Python does not run."""
    command = [python, "-P", "-c", MISSING, *packages]
    try:
        done = run_with_children(command, seconds=LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):  # the reader of its transformers says so
        return list(packages)
    words = done.stdout.split()
    return [name for name in packages if done.returncode != 0 or f"is-missing:{name}" in words]


def check_reader(
    reader: ExportReader, folder: Path, expected: ExpectedValues, seconds: float = MODEL_READER_SECONDS
) -> ReaderOutcome:
    """Ask ``reader``, which has failed where it takes more than ``seconds``, and compare."""
    if reader.absent:
        return ReaderOutcome(reader=reader.name, state="absent", found=reader.absent)
    case = {"folder": str(folder.absolute()), **expected.case, **reader.case}
    script = [reader.python, "-P", str(Path(__file__).with_name(SCRIPTS[reader.kind])), reader.kind]
    try:
        done = run_with_children(script, text=json.dumps(case), seconds=seconds)
    except OSError as error:
        return _failed(reader, f"{reader.python}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return _failed(
            reader, f"took more than {seconds:g} seconds and was ended; --timeout SECONDS gives it longer"
        )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return _failed(reader, lines[-1] if lines else f"no output, exit status {done.returncode}")
    found = _result(done.stdout)
    return compare(reader.name, found, expected) if found else _failed(reader, "printed no result")


def _failed(reader: ExportReader, why: str) -> ReaderOutcome:
    return ReaderOutcome(reader=reader.name, state="failed", found=why)


def _result(printed: str) -> dict[str, Any] | None:
    """The values that a script has printed; libraries may print more, before and when they end."""
    for line in reversed(printed.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "version" in found:
                return found
    return None


def compare(name: str, found: dict[str, Any], expected: ExpectedValues) -> ReaderOutcome:
    """Losses within ``TOLERANCE`` per token; everything else that the reader gave equal."""
    loss, differences, agreed = None, list[str](), list[str]()
    if "losses" in found:
        tokens = sum(expected.labelled)
        loss, own = sum(found["losses"]) / tokens, sum(expected.losses) / tokens
        worst = _worst(found["losses"], expected)
        agreed.append(f"loss {loss:.5f} (largest difference {worst:.1g})")
        if not worst <= TOLERANCE:
            differences.append(
                f"loss {loss:.5f}, the run's is {own:.5f} (one conversation differs by {worst:.2g})"
            )
    differences += [text for key in GIVEN if key in found for text in _differences(key, found, expected)]
    if "stops" in found and found["stops"] != expected.stops:
        differences.append(f"stops at {found['stops']}, the run at {expected.stops}")
    agreed.append(
        f"{len(expected.replies)} greedy replies equal, {sum(expected.stopped)} of them to the stop token"
    )
    version = found["version"]
    return ReaderOutcome(
        reader=f"{name} {version}",
        state="different" if differences else "equal",
        found="; ".join(differences) or ", ".join(agreed),
        loss=loss,
    )


def _worst(losses: list[float], expected: ExpectedValues) -> float:
    """Largest difference of the mean loss of a document, in nats per token; NaN where one is no number."""
    differences = [
        abs(a - b) / count for a, b, count in zip(losses, expected.losses, expected.labelled, strict=True)
    ]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


GIVEN = {
    "prompts": "prompt",
    "prompt_lengths": "number of tokens of prompt",
    "replies": "greedy reply",
    "texts": "text of greedy reply",
    "stopped": "end of greedy reply",
}
"""Values of a reader, one for each sample, and what a message calls them."""


def _differences(key: str, found: dict[str, Any], expected: ExpectedValues) -> list[str]:
    """The first sample that differs, and where."""
    for number, (one, other) in enumerate(zip(found[key], getattr(expected, key), strict=True), start=1):
        if one == other:
            continue
        what = f"{GIVEN[key]} {number}"
        if not isinstance(one, list):
            return [f"{what} is {one!r}, the run's is {other!r}"]
        pairs = enumerate(zip(one, other, strict=False))
        place = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
        return [f"{what} differs from token {place + 1} on"]
    return []
