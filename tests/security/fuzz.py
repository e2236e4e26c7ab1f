"""Mutated recipes, sites, run folders and lines: each is used or refused with a ``UserError``, in seconds.

``python -m security.fuzz --count 10000`` in ``tests`` prints what did otherwise, by place of the traceback.
Seeded: case N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from data.test_block import Anything
from data.test_key_rules import any_line
from gemfit.data.jsonl.batch_parser import read_block
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.errors import UserError
from gemfit_launch.cli import main as gemfit
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.write_configs import to_yaml
from gemfit_launch.slurm.sites.expand import expand
from gemfit_launch.slurm.sites.load import load_site

CPU_SECONDS, WALL_SECONDS = 5.0, 60.0
"""Limits of one case; the second is larger, because other programs may use the machine too."""
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, -0.0, 2**31, 2**63, 10**40, "", " ", "null", "x", "é", "\u202e"),
    *("\x1b[2J", "a\nb", "a: b", "- x", "../..", "/dev/null", "--help", "{{ 1 }}", "$(id)", "%s", "\ud800"),
    *("x" * 5000, [], {}, [[]], [None], {"": 1}, {"kind": "x"}, "1e999", ".inf", "2026-01-01", "!!python/x"),
]
SITE: dict[str, Any] = {
    "partition": "gpu",
    "gpus_per_node": 4,
    "gpu_kind": "h100",
    "memory": "0",
    "time": "1-00:00:00",
    "env": {"A": "b"},
    "setup": ["module load x"],
    "extra": {"comment": "x"},
}
VERBS = (("status",), ("checkpoints",), ("resume", "--dry-run"), ("logs",), ("report",))


class Hung(Exception):
    """A case took longer than its limit."""


@dataclass(frozen=True)
class Failure:
    """A case that ended otherwise."""

    kind: str
    number: int
    error: str
    """Type, text, and the last place in gemfit."""


def mutate(rng: random.Random, value: Any) -> Any:
    """``value`` with some keys removed, renamed or added and some values replaced, at any depth."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key = _place(rng, value)
        if holder is None:
            return copy.deepcopy(rng.choice(ODD))
        how = rng.random()
        if how < 0.55:
            holder[key] = _nested(rng)
        elif how < 0.75:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(rng.choice(ODD)) if how < 0.9 else f"{key}x"] = copy.deepcopy(holder[key])
        else:
            holder.append(_nested(rng))
    return value


def damage(rng: random.Random, text: bytes) -> bytes:
    """``text`` cut, with bytes replaced or repeated, or behind many brackets; often unchanged."""
    at, end = (rng.randrange(len(text) + 1) for _ in range(2))
    junk = rng.choice((b"\0", b"\xff\xfe", b"\xe9", b"\n", b"&a [*a]", b"<<: ", b'"', b"{", b"\r"))
    made = (
        text,
        text,
        text[:at],
        text[:at] + junk + text[at:],
        text[:at] + text[end:],
        text + text,
        rng.choice((b"[", b'{"a":', b"- ", b"a:\n ")) * rng.choice((50, 5000)) + text,
        junk * 3,
        bytes(rng.randrange(256) for _ in range(60)),
    )
    return rng.choice(made)


def fuzz_recipe(rng: random.Random, folder: Path) -> None:
    base = Request(name=rng.choice(("debug/cpu-tiny", "gemma3/1b-reference"))).document().data
    path = folder / "recipe.yaml"
    path.write_bytes(damage(rng, _text(rng, mutate(rng, base))))
    if rng.random() < 0.2:
        call("recipes", "check", path)
    setting = (
        f"{rng.choice(('optim.betas', 'data.source', 'strategy', 'x', 'model.scratch.a'))}={rng.choice(ODD)}"
    )
    Request(name=str(path), settings=(setting,) if rng.random() < 0.3 else ()).recipe()


def fuzz_site(rng: random.Random, folder: Path) -> None:
    path = folder / "site.yaml"
    path.write_bytes(damage(rng, _text(rng, mutate(rng, SITE))))
    expand(load_site(str(path)))


def fuzz_lines(rng: random.Random, folder: Path) -> None:
    lines = [json.dumps(mutate(rng, any_line(rng))).encode() for _ in range(rng.randint(1, 4))]
    found: list[Rejection] = []
    _, counts = read_block(damage(rng, b"\n".join(lines)), 1, "f", Anything(), found.append)
    assert counts.rejected == len(found)


def fuzz_run(rng: random.Random, folder: Path) -> None:
    run = folder / "run"
    path = rng.choice([path for path in sorted(run.rglob("*")) if path.is_file()])
    before = path.read_bytes()
    text = before.decode(errors="replace")
    try:
        value = json.loads(text)
        path.write_bytes(damage(rng, json.dumps(mutate(rng, value)).encode()))
    except ValueError:
        path.write_bytes(damage(rng, before))
    try:
        verb = rng.choice(VERBS)
        if verb == ("report",):
            _load(run)
        else:
            call(verb[0], run, *verb[1:])
    finally:
        path.write_bytes(before)


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "recipe": fuzz_recipe,
    "site": fuzz_site,
    "run": fuzz_run,
    "lines": fuzz_lines,
}


def call(*arguments: object) -> None:
    """Call ``gemfit`` in this process; anything but an exit status is raised."""
    result = CliRunner().invoke(gemfit, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output


def run_cases(
    count: int, seed: int, folder: Path, *, first: int = 0, seconds: float = float("inf")
) -> tuple[int, list[Failure]]:
    """Run ``count`` cases, of each kind in turn, in ``folder``, which holds a run folder ``run``.

    Ends early after ``seconds``. Returns the number of cases that were run, and the failures.
    """
    failures: list[Failure] = []
    end = time.monotonic() + seconds
    for number in range(first, first + count):
        if time.monotonic() > end:
            return number - first, failures
        kind = list(KINDS)[number % len(KINDS)]
        try:
            with limited():
                KINDS[kind](random.Random(f"{seed} {number}"), folder)
        except UserError as error:
            if str(error).strip():
                continue
            failures.append(Failure(kind, number, "a UserError without text"))
        except Exception as error:
            failures.append(Failure(kind, number, describe(error)))
    return count, failures


@contextmanager
def limited() -> Iterator[None]:
    """Raise ``Hung`` after `CPU_SECONDS` of computing, or `WALL_SECONDS` of waiting."""

    def stop(number: int, frame: object) -> None:
        raise Hung(f"no answer in {CPU_SECONDS if number == signal.SIGPROF else WALL_SECONDS} s")

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(error: Exception) -> str:
    """Type, place in gemfit and text of an exception."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "gemfit" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:120]!r}"


def _load(run: Path) -> None:
    from gemfit.report.load import load_run  # noqa: PLC0415  (seconds of imports)
    from gemfit.schemas.report_facts import RunFacts  # noqa: PLC0415

    load_run(run, RunFacts())


def _place(rng: random.Random, value: Any) -> tuple[Any, Any]:
    """A random container in ``value`` and one of its keys; ``None`` where there is none."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = (
            list(holder)
            if isinstance(holder, dict)
            else range(len(holder))
            if isinstance(holder, list)
            else ()
        )
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys]
    return rng.choice(found) if found else (None, None)


def _nested(rng: random.Random) -> Any:
    value = copy.deepcopy(rng.choice(ODD))
    for _ in range(rng.choice((0, 0, 0, 1, 3, 60))):
        value = {"a": value} if rng.random() < 0.5 else [value]
    return value


def _text(rng: random.Random, value: Any) -> bytes:
    """YAML, or JSON, which is YAML too."""
    text = json.dumps(value)
    if rng.random() < 0.4:
        try:
            text = to_yaml(value)
        except Exception:  # what ruamel does not write
            text = json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def main() -> int:
    """Run the cases on a run folder that is made first, and print the failures."""
    from security.stranger import make_stranger  # noqa: PLC0415  (it imports torch)

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after that many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEMFIT_CACHE"] = f"{folder}/cache"
        make_stranger(Path(folder))
        done, failures = run_cases(
            options.count, options.seed, Path(folder), first=options.first, seconds=options.seconds
        )
    for (kind, error), times in Counter((one.kind, one.error) for one in failures).most_common():
        example = next(one.number for one in failures if (one.kind, one.error) == (kind, error))
        sys.stdout.write(f"{times:5} {kind} (--first {example} --count 1): {error}\n")
    sys.stdout.write(f"{done} cases, {len(failures)} failures\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
