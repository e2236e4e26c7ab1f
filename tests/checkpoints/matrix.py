"""The matrix of checkpoints: saved by any strategy on any number of ranks, resumed by any other.

    python tests/checkpoints/matrix.py [--subset ci|degrees] [--saved STRATEGY …] [--json]
    python tests/checkpoints/matrix.py --report FILE …

A layout is a strategy on a number of ranks, of which some may share each row (sequence parallelism).
Every layout trains a tiny Gemma 3 in float32 on gloo, saves after step 8 and goes on to step 18. Every
layout then resumes from each of those checkpoints and takes the next ten steps. Losses and rows are compared
with those of one rank that never stopped. A layout that reads what it saved must give the very same
losses.
About a second per pair on two cores. ``--saved`` runs the part of the matrix with the checkpoints of these
strategies; ``--report`` prints the tables of such parts, from their JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked_ranks import Attempt, assert_one_thread, start
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from tiny_runs import TINY, make_plan, sample, steps_of

# Four ranks can share four heads.
MODEL = {**TINY, "model.scratch.num_attention_heads": 4}

SAVED_STEP, LAST_STEP = 8, 18
STRATEGIES = ("single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3", "zero3+offload")
SIZES = (1, 2, 4)
SHARING = ("ddp", "fsdp2", "hsdp", "zero2", "zero3")
"""Strategies that are also tried with ranks that share their rows."""
CHANGES_OF_DEGREE = tuple(pair for pair in itertools.product(SIZES, SIZES) if pair != (1, 1))
"""Ranks that share a row, saved and read; some stay the same."""
LIMIT = 1e-4
"""Largest relative difference of a loss that counts as rounding."""


@dataclass(frozen=True, order=True, slots=True)
class Layout:
    """A strategy on a number of ranks, ``degree`` of which share each row."""

    strategy: str
    ranks: int
    degree: int = 1

    def __str__(self) -> str:
        return f"{self.strategy} on {self.ranks}, degree {self.degree}"


@dataclass(frozen=True, slots=True)
class Pair:
    """What came of one checkpoint under one layout."""

    saved: Layout
    read: Layout
    loss_difference: float
    """Largest over the ten steps, relative to one rank that never stopped."""
    rows_equal: bool
    exact: bool
    """Every loss has the bits of the run that saved and went on."""

    @property
    def must_be_exact(self) -> bool:
        """Where the layout that saved reads."""
        return self.saved == self.read


def whole_row_layouts() -> list[Layout]:
    """Without sequence parallelism; ``ddp`` on one rank is planned as ``single``: it is not there twice."""
    only = {"single": (1,), "ddp": (2, 4), "hsdp": (4,)}
    return [Layout(strategy, ranks) for strategy in STRATEGIES for ranks in only.get(strategy, SIZES)]


def layouts() -> list[Layout]:
    """All of them."""
    degrees = ((2, 2), (4, 2), (4, 4))
    return whole_row_layouts() + [
        Layout(strategy, ranks, degree)
        for strategy in SHARING
        for ranks, degree in degrees
        if strategy != "hsdp" or ranks == 4
    ]


def ci_pairs() -> list[tuple[Layout, Layout]]:
    """Every strategy by every strategy over the nine changes of size, and changes of degree: 74."""
    return _strategy_pairs() + _few_degree_pairs()


def degree_pairs() -> list[tuple[Layout, Layout]]:
    """Every strategy that shares rows by every other, on four ranks, over the changes of degree: 25."""
    return [
        (Layout(saved, 4, of_saved), Layout(read, 4, of_read))
        for (saved, read), (of_saved, of_read) in zip(
            itertools.product(SHARING, SHARING), itertools.cycle(CHANGES_OF_DEGREE), strict=False
        )
    ]


def _few_degree_pairs() -> list[tuple[Layout, Layout]]:
    """Every change of degree on four ranks, each strategy saved and read with two degrees."""
    degrees = (*CHANGES_OF_DEGREE, (2, 4), (4, 2))
    strategies = zip(itertools.cycle(SHARING), itertools.cycle(SHARING[1:] + SHARING[:1]), strict=False)
    return [
        (Layout(saved, 4, of_saved), Layout(saved if of_saved == of_read else read, 4, of_read))
        for (of_saved, of_read), (saved, read) in zip(degrees, strategies, strict=False)
    ]


def _strategy_pairs() -> list[tuple[Layout, Layout]]:
    sizes = itertools.cycle(itertools.product(SIZES, SIZES))
    possible = whole_row_layouts()

    def fitting(strategy: str, ranks: int) -> Layout:
        wanted = Layout(strategy, ranks)
        return wanted if wanted in possible else next(one for one in possible if one.strategy == strategy)

    strategies = itertools.product(STRATEGIES, STRATEGIES)
    return [
        (fitting(saved, of_saved), fitting(read, of_saved if read == saved else of_read))
        for (saved, read), (of_saved, of_read) in zip(strategies, sizes, strict=False)
    ]


SUBSETS = {"ci": ci_pairs, "degrees": degree_pairs}


class Matrix:
    """The runs of one matrix, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, sample(root)
        self.plan: Callable[[Layout], Plan] = cache(self._plan)

    def save(self, saved: Iterable[Layout]) -> dict[Layout, RunDir]:
        """Train each layout without a stop, over a save; and one rank as the reference."""
        runs = {
            layout: RunDir.create(self.root / "saved" / str(layout), self.plan(layout)) for layout in saved
        }
        train([(layout.ranks, run) for layout, run in runs.items()])
        return runs

    def read(self, pairs: list[tuple[Layout, Layout]], runs: dict[Layout, RunDir]) -> list[Pair]:
        """Resume under another layout, for each pair."""
        resumed = [self._resumable(runs[saved], read, f"{saved} - {read}") for saved, read in pairs]
        train([(read.ranks, run) for (_, read), run in zip(pairs, resumed, strict=True)])
        reference = runs[Layout("single", 1)]
        return [
            compare(saved, read, run, reference, runs[saved])
            for (saved, read), run in zip(pairs, resumed, strict=True)
        ]

    def _plan(self, layout: Layout) -> Plan:
        name, plus, _ = layout.strategy.partition("+")
        settings: dict[str, Any] = {"length__max_steps": LAST_STEP, "checkpoint__every_steps": SAVED_STEP}
        if name == "hsdp":
            name, settings["strategy__replicate"] = "fsdp2", 2
        if layout.degree > 1:
            settings["strategy__sequence_parallel"] = layout.degree
        return make_plan(self.data, name, layout.ranks, offload=bool(plus), model=MODEL, **settings)

    def _resumable(self, saved: RunDir, read: Layout, name: str) -> RunDir:
        """A run of ``read`` that holds the checkpoint of ``saved`` and nothing else."""
        run = RunDir.create(self.root / name, self.plan(read))
        source, target = (r.checkpoint(SAVED_STEP) for r in (saved, run))
        shutil.copytree(source, target, copy_function=os.link)
        return run


def train(jobs: list[tuple[int, RunDir]]) -> None:
    """Carry all runs to their end, as many at a time as there are cores for their ranks."""
    active: list[tuple[int, Attempt]] = []
    for number, (ranks, run) in enumerate(jobs, 1):
        while active and sum(n for n, _ in active) + ranks > max(ranks, os.cpu_count() or 1):
            active = _drop_ended(active)
        active.append((ranks, start(run)))
        print(f"\r{number}/{len(jobs)} ", end="", file=sys.stderr, flush=True)
    while active:
        active = _drop_ended(active)
    print(file=sys.stderr)


def _drop_ended(active: list[tuple[int, Attempt]]) -> list[tuple[int, Attempt]]:
    ended = next((item for item in active if item[1].ended), active[0])
    code = ended[1].wait()
    if code is not ExitCode.DONE:
        sys.exit(f"{ended[1].run.root.name} ended with {code.name}:\n{ended[1].log()[-4000:]}")
    return [item for item in active if item is not ended]


def compare(saved: Layout, read: Layout, run: RunDir, reference: RunDir, saver: RunDir) -> Pair:
    """The ten steps after the checkpoint, compared with the reference and the run that saved."""
    found, expected, own = (steps_of(r) for r in (run, reference, saver))
    after = slice(SAVED_STEP, LAST_STEP)
    if [record.step for record in found] != [record.step for record in expected[after]]:
        sys.exit(f"{run.root}: took steps {[record.step for record in found]}")
    losses = [record.loss for record in found]
    differences = (abs(a - e.loss) / abs(e.loss) for a, e in zip(losses, expected[after], strict=True))
    return Pair(
        saved,
        read,
        loss_difference=max(differences),
        rows_equal=[r.rows_digest for r in found] == [r.rows_digest for r in expected[after]],
        exact=losses == [record.loss for record in own[after]],
    )


def largest(pairs: list[Pair], key: Callable[[Pair], tuple[str, str]]) -> dict[tuple[str, str], float]:
    """The largest difference of each group."""
    table: dict[tuple[str, str], float] = {}
    for pair in pairs:
        table[key(pair)] = max(table.get(key(pair), 0.0), pair.loss_difference)
    return table


def print_table(title: str, names: list[str], table: dict[tuple[str, str], float]) -> None:
    """Rows are what saved, columns what read; in Markdown."""
    print(f"\n| {title} | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for saved in names:
        cells = (f"{table[saved, read]:.1e}" if (saved, read) in table else "" for read in names)
        print(f"| {saved} | " + " | ".join(cells) + " |")


def report(pairs: list[Pair]) -> None:
    """Two tables and the totals."""
    strategies = largest(pairs, lambda pair: (pair.saved.strategy, pair.read.strategy))
    sizes = largest(pairs, lambda pair: (str(pair.saved.ranks), str(pair.read.ranks)))
    print_table("saved by, read by", list(STRATEGIES), strategies)
    degrees = largest(pairs, lambda pair: (str(pair.saved.degree), str(pair.read.degree)))
    print_table("ranks saved, read", list(map(str, SIZES)), sizes)
    print_table("ranks that share a row, saved, read", list(map(str, SIZES)), degrees)
    same = [pair for pair in pairs if pair.saved == pair.read]
    print(f"\npairs: {len(pairs)}")
    print(f"largest relative difference of a loss: {max(p.loss_difference for p in pairs):.1e}")
    print(f"pairs with the rows of the run that never stopped: {sum(p.rows_equal for p in pairs)}")
    print(
        f"read by the layout that saved, every loss bit for bit: {sum(p.exact for p in same)} of {len(same)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subset", choices=SUBSETS, help="74 or 25 pairs instead of all")
    parser.add_argument("--saved", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--report", nargs="+", type=Path, help="JSON of other runs, nothing is run")
    parser.add_argument("--json", action="store_true", help="print every pair as JSON")
    arguments = parser.parse_args()
    if arguments.report:
        return conclude([pair for path in arguments.report for pair in pairs_in(path)])
    whole = itertools.product(layouts(), layouts())
    pairs = SUBSETS[arguments.subset]() if arguments.subset else list(whole)
    pairs = [(saved, read) for saved, read in pairs if saved.strategy in arguments.saved]
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder))
        assert_one_thread()
        runs = matrix.save(sorted({Layout("single", 1), *(saved for saved, _ in pairs)}))
        outcomes = matrix.read(pairs, runs)
    if arguments.json:
        print(json.dumps([asdict(pair) for pair in outcomes]))
    return conclude(outcomes, say=not arguments.json)


def pairs_in(path: Path) -> list[Pair]:
    """The pairs of an earlier run, from what ``--json`` printed."""
    return [
        Pair(**one | {name: Layout(**one[name]) for name in ("saved", "read")})
        for one in json.loads(path.read_text())
    ]


def conclude(outcomes: list[Pair], *, say: bool = True) -> int:
    """Print the tables; 0 if every pair is as it should be."""
    if say:
        report(outcomes)
    good = all(
        p.rows_equal and p.loss_difference <= LIMIT and (p.exact or not p.must_be_exact) for p in outcomes
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
