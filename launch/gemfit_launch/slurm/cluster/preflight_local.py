"""Preflight checks on the login node: disk space, file locks, Hub token, `sbatch --test-only`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from gemfit.core.file_lock import explaining_locks, try_lock
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.metrics import SaveRecord, StepRecord
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.node_range import Size, counted
from gemfit_launch.predict.forecast import make_forecast
from gemfit_launch.runs.hub_token import token_source
from gemfit_launch.runs.metrics_tail import recent_records
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.preflight_limits import Pace

ABOUT = "machine"
LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
GATED = "google/gemma"
MOST_STARTS = 8
"""Numbers of nodes for which sbatch is asked when a job would start: each takes the controller's lock."""
Item = TypeVar("Item")


def measured_pace(run: RunDir) -> Pace:
    """Step and save times of ``run``; a run without both is a ``UserError``."""
    records = recent_records(run.metrics_file)
    saves = [record for record in records if isinstance(record, SaveRecord)]
    steps = [record for record in records if isinstance(record, StepRecord)]
    times = [
        later.time - earlier.time for earlier, later in pairwise(steps) if later.attempt == earlier.attempt
    ]
    if not saves or not times:
        raise UserError(f"{run.root}: has no step and save yet; name another run, or leave --like out")
    return Pace(
        step_seconds=sorted(times)[len(times) // 2],
        save_seconds=max(save.stall_seconds + save.write_seconds for save in saves),
        checkpoint_bytes=max(save.bytes for save in saves),
    )


def predicted_pace(plan: Plan) -> Pace | None:
    """Predicted step and save times, where the site of ``plan`` names its kind of GPU and its bandwidth."""
    forecast = make_forecast(plan)
    if forecast.checkpoint is None or forecast.performance is None:
        return None
    return Pace(
        step_seconds=forecast.performance.step_seconds.slow,
        save_seconds=forecast.checkpoint.save_seconds,
        checkpoint_bytes=forecast.checkpoint.checkpoint_bytes,
        predicted=True,
    )


def check_locally(
    plan: Plan,
    root: Path,
    pace: Pace | None,
    scripts: Iterable[tuple[str, str]],
    sizes: Sequence[Size] = (),
) -> Iterator[CheckResult]:
    """Checks of the run folder, the token and the scripts, by kind; ``sizes`` are of a range of nodes."""
    yield from _folder(root, plan, pace)
    yield from _token(plan)
    for kind, script in scripts:
        yield _test_only("sbatch" if kind == "train" else f"sbatch ({kind})", script)
        if kind == "train":
            yield from _starts([size for size in sizes if not size.left_out], script)


def _folder(root: Path, plan: Plan, pace: Pace | None) -> Iterator[CheckResult]:
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield error(ABOUT, "run folder", f"{existing}: cannot be written to", "choose another --run")
    else:
        yield from _file_locks(existing)
    if any(existing.is_relative_to(folder) for folder in LOCAL_FOLDERS) and plan.topology.nodes > 1:
        yield warning(
            ABOUT, "run folder", f"{existing}: is usually local to each machine; nodes have to share it"
        )
    free = shutil.disk_usage(existing).free
    # Retention keeps this many and the best, and one more is being written.
    copies = plan.recipe.checkpoint.keep + 2
    if pace is None:
        yield ok(ABOUT, "disk", f"{free / 1e9:,.1f} GB free; --like RUN compares it with checkpoints")
    elif free < copies * pace.checkpoint_bytes:
        needed = copies * pace.checkpoint_bytes / 1e9
        yield error(ABOUT, "disk", f"{free / 1e9:,.1f} GB free, and {copies} checkpoints need {needed:,.1f}")
    else:
        yield ok(
            ABOUT, "disk", f"{free / 1e9:,.1f} GB free, {copies * pace.checkpoint_bytes / 1e9:,.1f} needed"
        )


def _file_locks(folder: Path) -> Iterator[CheckResult]:
    """Try a lock where the run folder will be; the job locks its run in the same way."""
    try:
        with explaining_locks(folder / "lock"), tempfile.NamedTemporaryFile(dir=folder) as stream:
            try_lock(stream.fileno())
    except UserError as refusal:
        yield error(ABOUT, "run folder", str(refusal), "choose another --run")


def _token(plan: Plan) -> Iterator[CheckResult]:
    model, hub = plan.recipe.model.id, plan.recipe.hub
    wants = [f"{model} needs one"] if model is not None and model.startswith(GATED) else []
    wants += [f"hub.push to {hub.repo} needs one"] if hub.push != "never" else []
    if not wants:
        return
    if (source := token_source()) is not None:
        yield ok(ABOUT, "token", f"found for Hugging Face ({source})")
    else:
        why = " and ".join(wants)
        yield warning(ABOUT, "token", why, "export HF_TOKEN before `gemfit submit`, or log in")


def _test_only(name: str, script: str) -> CheckResult:
    """Slurm's own check of the script, without submitting it."""
    try:
        start = commands.expected_start(script)
    except commands.SlurmError as refusal:
        return error(ABOUT, name, _words(refusal))
    would = f", and would start it at {start}" if start else ""
    return ok(ABOUT, name, f"accepts the script (--test-only){would}")


def _starts(used: Sequence[Size], script: str) -> Iterator[CheckResult]:
    """When a job would start on the numbers of nodes in a range that are used."""
    if len(used) < 2:  # a fixed number, which the script itself asks for
        return
    asked = evenly_chosen(used, MOST_STARTS)
    yield from (_start_on(size, script) for size in asked)
    if len(asked) < len(used):
        said = f"asked for {len(asked)} of the {len(used)} numbers of nodes that are used"
        yield ok(ABOUT, "other starts", f"{said}; --nodes N asks for another")


def evenly_chosen(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` (2 or more) of ``items`` in order: the first, the last, and some between them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _start_on(size: Size, script: str) -> CheckResult:
    """When a job would start on this number of a range of nodes, and which slots it would leave idle."""
    assert size.plan is not None, "a size that is used has a plan"
    about, batch = f"start on {counted(size.nodes, size.nodes)}", size.plan.batch
    idle = f"; {batch.idle} of {batch.slots} slots of each step idle" if batch.idle else ""
    try:
        start = commands.expected_start(script, nodes=size.nodes)
    except commands.SlurmError as refusal:
        return warning(ABOUT, about, _words(refusal) + idle)
    return ok(ABOUT, about, (start or "sbatch does not say when") + idle)


def _words(refusal: commands.SlurmError) -> str:
    return str(refusal).removeprefix("sbatch: ").strip()
