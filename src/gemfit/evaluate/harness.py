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
    for file in filter(_is_file, tasks):
        if not Path(file).is_file():
            raise UserError(f"--tasks: {file}: no such file; give the YAML file of a task, or a task's name")
    if unknown := sorted({task for task in tasks if not _is_file(task)} - set(_manager().all_tasks)):
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
        # The file itself: with its folder, the harness would read every YAML file below it.
        tasks=[str(Path(task).resolve()) if _is_file(task) else task for task in tasks],
        task_manager=_manager(),
        limit=limit,
        bootstrap_iters=1000,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return tuple(task_scores(found["results"]))


def _manager() -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415  (optional, and seconds of imports)

    return TaskManager()


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


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))
