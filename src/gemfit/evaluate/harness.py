"""Tasks of lm-evaluation-harness, where that package is installed. It is not a dependency of gemfit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gemfit.config.yaml_source import MAX_BYTES, parse
from gemfit.errors import UserError
from gemfit.evaluate.models import LoadedModel
from gemfit.schemas.evaluation import TaskScore

_FUNCTION = re.compile(r"!function\s+")


def require_harness(tasks: Sequence[str]) -> None:
    """``UserError`` where lm-evaluation-harness is not installed or cannot load one of ``tasks``."""
    if not tasks:
        return
    if find_spec("lm_eval") is None:
        raise UserError(
            f"--tasks {','.join(tasks)}: needs lm-evaluation-harness, which is not installed: "
            "pip install lm-eval, or leave --tasks out"
        )
    for file in filter(_is_file, tasks):
        _check_file(Path(file))
    with _blaming(tasks):
        manager = _manager()
        if unknown := sorted({task for task in tasks if not _is_file(task)} - set(manager.all_tasks)):
            raise UserError(
                f"--tasks: lm-evaluation-harness has no task {', '.join(unknown)}; see `lm-eval ls tasks`"
            )
    _check_loads(manager, tasks)


def _check_file(path: Path) -> None:
    """``UserError`` for a file that the harness could not read, or not within limits of time and memory."""
    if not path.is_file():
        raise UserError(f"--tasks: {path}: no such file; give the YAML file of a task, or a task's name")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"--tasks: {path}: is larger than {MAX_BYTES // 2**20} MiB, so it is no task")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--tasks: {path}: cannot be read: {error}") from None
    # The harness's own tag names a Python function.
    parse(_FUNCTION.sub("", text), f"--tasks: {path}")


def _check_loads(manager: Any, tasks: Sequence[str]) -> None:
    """Load each task, with its data, so that errors come before a model is read."""
    origins: dict[str, str] = {}
    for task in tasks:
        with _blaming([task]):
            found = manager.load([_spec(task)])["tasks"]
        for name in found:
            if (other := origins.setdefault(name, task)) != task:
                raise UserError(
                    f"--tasks: {other} and {task} both have the task {name}, which would count once; "
                    "leave one out, or give it another name"
                )


@contextmanager
def _blaming(tasks: Sequence[str]) -> Iterator[None]:
    """Whatever the harness raises about ``tasks`` is a ``UserError``; errors of torch stay what they are."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError | RecursionError):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), "no details")
        raise UserError(
            f"--tasks {','.join(tasks)}: lm-evaluation-harness fails: {type(error).__name__}: {first[:300]}; "
            "check the task with `lm-eval validate`, and that its data is here or can be downloaded"
        ) from error


def _spec(task: str) -> str:
    """What the harness takes: the file itself, since with its folder it would read all YAML below it."""
    return str(Path(task).resolve()) if _is_file(task) else task


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

    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
    with _blaming(tasks):
        found = simple_evaluate(
            model=model,
            tasks=list(map(_spec, tasks)),
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
