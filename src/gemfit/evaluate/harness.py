"""Tasks of lm-evaluation-harness, where that package is installed. It is not a dependency of gemfit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gemfit.errors import UserError
from gemfit.evaluate.models import LoadedModel
from gemfit.schemas.evaluation import TaskScore


def require_harness(tasks: Sequence[str]) -> None:
    """``UserError`` where lm-evaluation-harness is not installed or does not know one of ``tasks``."""
    if not tasks:
        return
    if find_spec("lm_eval") is None:
        raise UserError(
            f"--tasks {','.join(tasks)}: needs lm-evaluation-harness, which is not installed: "
            "pip install lm-eval, or leave --tasks out"
        )
    if unknown := sorted({_task_name(task) for task in tasks} - set(_manager(tasks).all_tasks)):
        raise UserError(
            f"--tasks: lm-evaluation-harness has no task {', '.join(unknown)}; see `lm-eval ls tasks`"
        )


def run_tasks(
    loaded: LoadedModel, tasks: Sequence[str], *, limit: int | None, batch_size: int, seed: int
) -> tuple[TaskScore, ...]:
    """All metrics of ``tasks``: names that the harness knows (``require_harness``), or YAML files of tasks.

    ``limit`` takes the first examples of each.
    """
    if not tasks:
        return ()
    from lm_eval import simple_evaluate  # noqa: PLC0415  (optional, and seconds of imports)
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    found = simple_evaluate(
        model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size),
        tasks=[_task_name(task) for task in tasks],
        task_manager=_manager(tasks),
        limit=limit,
        bootstrap_iters=1000,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return tuple(task_scores(found["results"]))


def _manager(tasks: Sequence[str]) -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415  (optional, and seconds of imports)

    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    return TaskManager(include_path=[str(file.parent.resolve()) for file in files] or None)


def task_scores(results: dict[str, dict[str, Any]]) -> list[TaskScore]:
    """The metrics in the results of the harness, each with its standard error."""
    return [
        TaskScore(
            task=task,
            metric=key.removesuffix(",none"),
            value=float(value),
            stderr=_number(metrics.get(key.replace(",", "_stderr,", 1))),
        )
        for task, metrics in results.items()
        for key, value in metrics.items()
        if "," in key and "_stderr," not in key and _number(value) is not None
    ]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _task_name(task: str) -> str:
    """The name of a task; that of a file is its stem."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task
