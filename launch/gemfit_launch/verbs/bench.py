"""``gemfit bench``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit_launch.bench.run import Length, Result, Variant, measure_all, plan_all, variants
from gemfit_launch.bench.synthetic_data import write_conversations
from gemfit_launch.bench.view import bench_json, show_bench
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import PackFailed
from gemfit_launch.runs.python_module import require_train_extra
from gemfit_launch.verbs._options import json_option, ranks_options, request_options


@click.command()
@request_options()
@ranks_options(with_nodes=False)
@click.option("--synthetic", is_flag=True, help="Use made-up conversations instead of --data.")
@click.option("--steps", type=click.IntRange(min=2), default=20, show_default=True, help="Steps that count.")
@click.option(
    "--warmup",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Steps before them that do not.",
)
@click.option(
    "--vary",
    metavar="KEY=A,B",
    multiple=True,
    help="Measure with each value of a setting, such as strategy=ddp,fsdp2 or nproc=1,2; may be repeated.",
)
@click.option("--keep", is_flag=True, help="Keep the run folders, to look into them.")
@json_option
def bench(
    request: Request,
    ranks: Ranks,
    synthetic: bool,
    steps: int,
    warmup: int,
    vary: tuple[str, ...],
    keep: bool,
    as_json: bool,
) -> None:
    """Measure a recipe here: time of a step, tokens a second, stalls, memory.

    Each setting is an ordinary run in processes of its own, with an evaluation and a checkpoint among the
    steps that count; their share is told for the rhythm of the recipe. Progress goes to standard error. The
    run folders are removed, unless --keep; packs stay in the cache. Exit status 1 where a setting failed.

    \b
    Example:
      gemfit bench debug/cpu-tiny --synthetic --steps 10
      gemfit bench gemma3/1b --data talks.jsonl --vary model.attention=sdpa,eager --json
      gemfit bench gemma3/4b --synthetic --vary strategy=fsdp2,zero3 --vary nproc=4,8
    """
    require_train_extra("bench")
    length = Length(steps=steps, warmup=warmup)
    with _data(request, synthetic, length) as asked, redirect_stdout(sys.stderr):
        results = _measure(variants(asked, ranks, vary, length), warmup, keep)
    if as_json:
        click.echo(json.dumps(bench_json(request.name, results, length), indent=2))
    else:
        show_bench(request.name, results, length)
    if any(result.failed is not None for result in results):
        raise click.exceptions.Exit(ExitCode.FAILED)


@contextmanager
def _data(request: Request, synthetic: bool, length: Length) -> Iterator[Request]:
    """The request with conversations; made-up ones exist only while it is carried out."""
    recipe = request.recipe()
    if not synthetic:
        if not recipe.data.mixture:
            raise UserError("give conversations with --data FILE, or measure with made-up ones: --synthetic")
        yield request
        return
    if request.data is not None:
        raise UserError("give --data or --synthetic, not both")
    with tempfile.TemporaryDirectory(prefix="gemfit-bench-") as scratch:
        path = Path(scratch) / "made-up.jsonl"
        rows = length.total * recipe.batch.global_batch_size
        write_conversations(path, seq_len=recipe.data.seq_len, rows=rows)
        yield replace(request, data=str(path))


def _measure(chosen: list[Variant], warmup: int, keep: bool) -> list[Result]:
    try:
        plans = plan_all(chosen)
        return list(measure_all(chosen, plans, warmup=warmup, keep=keep, say=click.echo))
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None
    except KeyboardInterrupt:
        click.echo("stopped: nothing is told of an unfinished benchmark", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED) from None
