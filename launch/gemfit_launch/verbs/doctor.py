"""``gemfit doctor``."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from gemfit.core.gpu_count import count_gpus
from gemfit.errors import ExitCode
from gemfit.schemas.check import CheckResult, ok
from gemfit.schemas.pack_job import cache_folder
from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit_launch.doctor.machine import (
    check_disks,
    check_gpus,
    check_hub,
    check_limits,
    check_ports,
    check_slurm,
)
from gemfit_launch.doctor.packages import check_packages, minimum_versions
from gemfit_launch.output.checks import check_table
from gemfit_launch.output.tables import console
from gemfit_launch.planning.attention import attention_facts, choose_attention
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.python_module import ask_answer
from gemfit_launch.verbs._options import json_option, request_options

CHECKS: TypeAdapter[tuple[CheckResult, ...]] = TypeAdapter(tuple[CheckResult, ...])


@click.command()
@request_options(required=False)
@click.option("--full", is_flag=True, help="Load the recipe's weights instead of a small random model.")
@json_option
def doctor(request: Request, full: bool, as_json: bool) -> None:
    """Check this machine and a recipe.

    Packages, GPUs, disk, limits, ports, Hub and Slurm. With a RECIPE also common mistakes: whether
    documents are kept apart, the loss is a mean over trained tokens, each document begins once, stop
    tokens are trained, and gradients are finite. Exit status: 1 where there is an error.

    \b
    Example:
      gemfit doctor
      gemfit doctor gemma3/1b-reference --data chat.jsonl
    """
    if not request.name and (full or request.arguments()):
        raise click.UsageError("--full, --data and options that change a recipe need a RECIPE")
    recipe = request.recipe() if request.name else None
    checks = [*check_machine(), *check_with_torch(recipe, full)]
    if as_json:
        click.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    else:
        _show(checks)
    if any(check.state == "error" for check in checks):
        raise click.exceptions.Exit(ExitCode.FAILED)


def check_machine() -> Iterator[CheckResult]:
    """Checks of the machine that need no torch."""
    yield from check_packages(minimum_versions())
    yield from check_gpus()
    yield from check_disks({"runs": Path("runs"), "cache": cache_folder()})
    yield from check_limits()
    yield check_ports()
    yield check_hub(dict(os.environ))
    yield check_slurm()


def check_with_torch(recipe: Recipe | None, full: bool) -> Sequence[CheckResult]:
    """Checks of the machine and of ``recipe`` by the training packages; none if they are not installed."""
    if find_spec("torch") is None:
        skipped = ok("recipe", "common mistakes", "not checked: training packages are not installed")
        return (skipped,) if recipe is not None else ()
    if recipe is None:
        return _ask([])
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="gemfit-doctor-") as stream:
        stream.write(_resolved(recipe).to_json())
        stream.flush()
        return _ask([stream.name, *(["--full"] if full else [])])


def _ask(arguments: list[str]) -> Sequence[CheckResult]:
    return CHECKS.validate_json(ask_answer("gemfit.train.checks.doctor", arguments))


def _resolved(recipe: Recipe) -> Recipe:
    """``recipe`` with the attention that a run on this machine would select."""
    device: Any = "cuda" if count_gpus() else "cpu"
    here = Topology(nodes=1, ranks_per_node=1, device=device)
    chosen = choose_attention(recipe, here, attention_facts(recipe, here, None))
    model = recipe.model.model_copy(update={"attention": chosen.name})
    return recipe.model_copy(update={"model": model})


def _show(checks: Sequence[CheckResult]) -> None:
    out = console()
    out.print(check_table(checks))
    count = Counter(check.state for check in checks)
    out.print(f"\n{count['error']} errors, {count['warning']} warnings, {count['ok']} ok")
