"""Every engine on a group of one rank (NCCL on a GPU): each stops, and the next one resumes its run."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common import Scale, change_strategy, keep, largest_difference, losses, make_run, selftest, train

from gemfit.core.available_cores import available_cores
from gemfit.rundir import RunDir

ENGINES = (
    ("single", False),
    ("fsdp2", False),
    ("fsdp2", True),
    ("zero1", False),
    ("zero1", True),
    ("zero2", False),
    ("zero3", False),
    ("zero3", True),
)
STEPS, STOP_AT = 4, 2
LIMITS = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest relative difference of a loss from that of strategy single without a stop."""
SPARE_CORES = 4
"""Left to the other parts: each run has a small model, and most of its time is imports on one core."""


def measure(scale: Scale) -> dict[str, Any]:
    """Losses of every engine, before and after the resume by the next one."""
    runs = [_make(scale, strategy, offload=offload) for strategy, offload in ENGINES]
    whole = _make(scale, "single", offload=False, name="whole")
    together = min(len(runs) + 1, max(2, available_cores() - SPARE_CORES))
    with ThreadPoolExecutor(1 if scale.dry else together) as pool:
        reference = pool.submit(_attempt, scale, whole, None)
        first = [pool.submit(_attempt, scale, run, STOP_AT) for run in runs]
        errors = [future.result() for future in first]
        if (error := reference.result()) is not None:
            raise RuntimeError(error)
        resumed = [pool.submit(_resume, scale, number, runs[number], errors) for number in range(len(runs))]
        expected, facts = losses(whole), list[dict[str, Any]]()
        for engine, run, future in zip(ENGINES, runs, resumed, strict=True):
            facts.append(_facts(engine, run, future.result()) | _differences(losses(run), expected))
            keep(scale, "engines", {"engines": facts})
    limit = LIMITS[scale.dtype]
    shutil.rmtree(scale.work / "runs" / "engines")
    skipped = "ddp: on one rank the plan says single, since there are no gradients to average"
    faults = [f"{one['engine']}: {why}" for one in facts if (why := _fault(one, limit))]
    return {"losses": expected, "engines": facts, "not_here": skipped, "faults": faults}


def _make(scale: Scale, strategy: str, *, offload: bool, name: str | None = None) -> RunDir:
    return make_run(
        scale,
        f"engines/{name or _label(strategy, offload)}",
        strategy=strategy,
        offload=offload,
        length__max_steps=STEPS,
        batch__global_batch_size=8,
    )


def _attempt(scale: Scale, run: RunDir, stop_at: int | None) -> str | None:
    """Why the attempt failed; ``None`` if it did not."""
    try:
        train(scale, run, stop_at=stop_at)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[-800:]
    return None


def _resume(scale: Scale, number: int, run: RunDir, errors: list[str | None]) -> str | None:
    if errors[number] is not None:
        return errors[number]
    strategy, offload = ENGINES[(number + 1) % len(ENGINES)]
    try:
        change_strategy(scale, run, strategy, offload=offload)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return _attempt(scale, run, None)


def _facts(engine: tuple[str, bool], run: RunDir, error: str | None) -> dict[str, Any]:
    following = ENGINES[(ENGINES.index(engine) + 1) % len(ENGINES)]
    return {
        "engine": _label(*engine),
        "resumed_by": _label(*following),
        "selftest": selftest(run).get("engine") if run.log(1).is_file() else None,
        "error": error,
    }


def _differences(found: list[float], expected: list[float]) -> dict[str, Any]:
    if len(found) != len(expected):
        return {"first_loss": None, "after_resume": None}
    return {
        "first_loss": largest_difference(found[:1], expected[:1]),
        "after_resume": largest_difference(found[STOP_AT:], expected[STOP_AT:]),
    }


def _fault(one: dict[str, Any], limit: float) -> str | None:
    if one["error"] is not None:
        return str(one["error"])
    if one["first_loss"] is None:
        return "steps are missing"
    worst = max(one["first_loss"], one["after_resume"])
    return f"losses differ by {worst:.1e}" if worst > limit else None


def _label(strategy: str, offload: bool) -> str:
    return f"{strategy}+offload" if offload else strategy
