"""Runs of ``gemfit bench``: each variant is an ordinary run in processes of its own.

All variants are planned before the first of them trains, so a mistake costs nothing. Run folders are removed
at the end; packs stay in the cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit_launch.bench.measurements import BenchMeasurements, bench_measurements
from gemfit_launch.output.progress import watching
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.this_machine import check_this_machine
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack
from gemfit_launch.runs.exit_report import conclude
from gemfit_launch.runs.local import carry_out
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.runs.status import RUNS

RANKS = ("nproc", "gpus")
OURS = (
    "length",
    "checkpoint.every_steps",
    "evaluation.every_steps",
    "checkpoint.keep",
    "tracking.log_every_steps",
)
"""Fields that the benchmark sets itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """Number of measured steps, and of warm-up steps before them."""

    steps: int
    warmup: int

    @property
    def total(self) -> int:
        return self.steps + self.warmup

    def settings(self) -> tuple[str, ...]:
        """One evaluation and one save in the middle of the measured steps, and one after the last."""
        middle = self.warmup + -(-self.steps // 2)
        return (
            "length.num_epochs=null",
            f"length.max_steps={self.total}",
            f"checkpoint.every_steps={middle}",
            "checkpoint.max_lost_steps=null",
            "checkpoint.keep=1",
            "checkpoint.keep_best=false",
            f"evaluation.every_steps={middle}",
            "tracking.log_every_steps=1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchVariant:
    """One combination of the varied values."""

    changes: tuple[str, ...]
    """Such as ``strategy=ddp``; empty where nothing is varied."""
    recipe: Recipe
    """With the intervals of the user's recipe."""
    run_recipe: Recipe
    """With the intervals of the benchmark."""
    ranks: Ranks

    @property
    def label(self) -> str:
        return " ".join(self.changes) or "as it is"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """Measurements of one variant, or why it failed."""

    variant: BenchVariant
    plan: Plan
    measurements: BenchMeasurements | None
    failed: str | None
    load: float
    """Load average of the minute before the run."""


def variants(request: Request, ranks: Ranks, vary: Sequence[str], length: Length) -> list[BenchVariant]:
    """Every combination of the values in ``vary``, each ``KEY=A,B``; a mistake is a ``UserError``."""
    axes = [[f"{key}={value}" for value in values] for key, values in map(_axis, vary)]
    return [_variant(request, ranks, changes, length) for changes in product(*axes)]


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    listed = [value for value in values.split(",") if value]
    if not equals or not key or not listed:
        raise UserError(f"--vary {text}: write KEY=A,B such as strategy=ddp,fsdp2 or nproc=1,2")
    if taken := next((name for name in OURS if key == name or key.startswith(f"{name}.")), None):
        raise UserError(f"--vary {key}: the benchmark sets {taken} itself; see --steps and --warmup")
    return key, listed


def _variant(request: Request, ranks: Ranks, changes: tuple[str, ...], length: Length) -> BenchVariant:
    settings = [change for change in changes if change.partition("=")[0] not in RANKS]
    counts = {key: value for key, _, value in (change.partition("=") for change in changes) if key in RANKS}
    for key, value in counts.items():
        if not value.isdecimal() or not int(value):
            raise UserError(f"--vary {key}={value}: is not a number of ranks")
    asked = replace(request, settings=(*request.settings, *settings))
    if any(setting.startswith("strategy=") for setting in settings):
        asked = replace(asked, strategy=None)
    return BenchVariant(
        changes=changes,
        recipe=asked.recipe(),
        run_recipe=replace(asked, settings=(*asked.settings, *length.settings())).pinned_recipe(),
        ranks=replace(
            ranks,
            nproc=int(counts["nproc"]) if "nproc" in counts else ranks.nproc,
            gpus=int(counts["gpus"]) if "gpus" in counts else ranks.gpus,
        ),
    )


def plan_all(chosen: Sequence[BenchVariant]) -> list[Plan]:
    """Exact plans; builds missing packs, once every plan is known to be valid."""
    plans = [resolve_plan(variant.run_recipe, variant.ranks) for variant in chosen]
    for variant, plan in zip(chosen, plans, strict=True):
        check_this_machine(variant.ranks, plan)
    for variant, plan in zip(chosen, plans, strict=True):
        folder = Path(plan.pack.folder)
        if not (folder / "manifest.json").is_file():
            ensure_pack(make_pack_job(variant.run_recipe), folder, force=False, say=lambda line: None)
    return [resolve_plan(variant.run_recipe, variant.ranks) for variant in chosen]


def measure_all(
    chosen: Sequence[BenchVariant],
    plans: Sequence[Plan],
    *,
    warmup: int,
    keep: bool,
    say: Callable[[str], None],
) -> Iterator[BenchResult]:
    """One run after the other."""
    with _folder(keep=keep, say=say) as root:
        for number, (variant, plan) in enumerate(zip(chosen, plans, strict=True), 1):
            say(f"{number}/{len(chosen)}: {variant.label}, {plan.recipe.strategy.label} on {_ranks(plan)}")
            yield _measure(variant, plan, root / f"{number}", warmup, say)


def _measure(
    variant: BenchVariant, plan: Plan, folder: Path, warmup: int, say: Callable[[str], None]
) -> BenchResult:
    run, load = RunDir.create(folder, plan), os.getloadavg()[0]
    with watching(plan.steps.total) as watch:
        outcome = carry_out(run, plan, watch)
    ending = conclude(run, outcome)
    found, failed = None, None
    if ending.code is ExitCode.DONE:
        found = bench_measurements(Tail(run.metrics_file).read(), plan, variant.recipe, warmup)
    elif ending.code is ExitCode.STOPPED:
        raise KeyboardInterrupt
    else:
        say(ending.text)
        failed = next((line for line in ending.text.splitlines() if line.startswith("error: ")), ending.text)
    return BenchResult(variant=variant, plan=plan, measurements=found, failed=failed, load=load)


def _ranks(plan: Plan) -> str:
    world = plan.topology.world_size
    return f"{world} {plan.topology.device} rank{'s' if world > 1 else ''}"


@contextmanager
def _folder(*, keep: bool, say: Callable[[str], None]) -> Iterator[Path]:
    """A folder in ``runs/``, so that checkpoints are written to the same disk as those of a real run."""
    was_there, root = RUNS.is_dir(), RUNS / f"bench-{datetime.now():%Y%m%d-%H%M%S-%f}"
    root.mkdir(parents=True)
    try:
        yield root
    finally:
        if keep:
            say(f"kept: {root}")
        else:
            shutil.rmtree(root)
            if not was_there and not any(RUNS.iterdir()):
                RUNS.rmdir()
