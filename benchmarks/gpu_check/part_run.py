"""`gemfit run` stopped and resumed by `gemfit resume`, against the same run without a stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import (
    TINY_RECIPE,
    Scale,
    gemfit,
    keep,
    largest_difference,
    losses,
    records,
    selftest,
    settings_of,
)

from gemfit.rundir import RunDir

STEPS, STOP_AT = 6, 3
LIMITS = {"float32": 1e-5, "bfloat16": 1e-3}
"""Largest relative difference of a loss; kernels of GPUs may sum in another order each time."""


def measure(scale: Scale) -> dict[str, Any]:
    """Losses with and without a stop, facts of the self-test, machine, energy and saves."""
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(_run, scale, "whole", None)
        stopped = pool.submit(_run, scale, "stopped", STOP_AT).result()
        gemfit("resume", str(stopped.root))
        reference = whole.result()
    difference = largest_difference(losses(stopped), losses(reference))
    found = {
        "attention": records(stopped, "hardware")[-1]["attention"],
        "losses": losses(stopped),
        "largest_difference": difference,
        "selftest": selftest(stopped),
        "hardware": records(stopped, "hardware")[-1:],
        "energy": records(stopped, "energy"),
        "saves": records(stopped, "save"),
    }
    keep(scale, "run", found)
    limit = LIMITS[scale.dtype]
    same_rows = _rows(stopped) == _rows(reference)
    faults = [] if difference <= limit else [f"losses after the resume differ by {difference:.1e}"]
    return found | {"faults": faults + ([] if same_rows else ["the resumed run took other rows"])}


def _run(scale: Scale, name: str, stop_at: int | None) -> RunDir:
    values = {"length__max_steps": STEPS, "batch__global_batch_size": 8}
    settings = settings_of(scale, "wide", TINY_RECIPE, values)
    folder = Path(scale.work / "runs" / f"run-{name}")
    argv = [word for setting in settings for word in ("--set", setting)]
    ranks = ["--nproc", "1", "--device", scale.device, "--strategy", "single"]
    stop = [] if stop_at is None else ["--stop-at", str(stop_at)]
    data = ["--data", str(scale.data)]
    gemfit("run", TINY_RECIPE, *argv, *data, *ranks, "--run", str(folder), *stop)
    return RunDir.open(folder)


def _rows(run: RunDir) -> list[str]:
    return [record["rows_digest"] for record in records(run, "step")]
