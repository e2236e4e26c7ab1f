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
from gemfit_launch.bench.runner import BenchResult, BenchVariant, Length, measure_all, plan_all, variants
from gemfit_launch.bench.synthetic_data import write_conversations
from gemfit_launch.bench.view import bench_json, show_bench
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import PackFailed
from gemfit_launch.runs.python_module import require_train_extra
from gemfit_launch.verbs._completion import SettingKey
from gemfit_launch.verbs._options import json_option, ranks_options, request_options


@click.command()
@request_options()
@ranks_options(with_nodes=False)
@click.option("--synthetic", is_flag=True, help="Generate conversations instead of --data.")
@click.option("--steps", type=click.IntRange(min=2), default=20, show_default=True, help="Measured steps.")
@click.option(
    "--warmup",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Warm-up steps, not measured.",
)
@click.option(
    "--vary",
    type=SettingKey(),
    metavar="KEY=A,B",
    multiple=True,
    help="Measure each value of a field, such as strategy=ddp,fsdp2 or nproc=1,2; repeatable.",
)
@click.option("--keep", is_flag=True, help="Keep the run folders.")
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
    """Measure training speed and memory.

    Each variant is an ordinary run in processes of its own, with an evaluation and a checkpoint among
    the measured steps; their share of the time is scaled to the intervals of the recipe. Progress goes to
    standard error. Run folders are removed, unless --keep; packs stay in the cache.
    Exit status: 1 where a variant failed.

    \b
    Example:
      gemfit bench debug/cpu-tiny --synthetic --steps 10
      gemfit bench gemma3/1b --data chat.jsonl --vary model.attention=sdpa,eager --json
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
    """The request with conversations; synthetic ones exist only inside the context."""
    recipe = request.recipe()
    if not synthetic:
        if not recipe.data.mixture:
            raise UserError("give conversations with --data FILE, or generate them with --synthetic")
        yield request
        return
    if request.data is not None:
        raise UserError("give --data or --synthetic, not both")
    with tempfile.TemporaryDirectory(prefix="gemfit-bench-") as scratch:
        path = Path(scratch) / "synthetic.jsonl"
        rows = length.total * recipe.batch.global_batch_size
        write_conversations(path, seq_len=recipe.data.seq_len, rows=rows)
        yield replace(request, data=str(path))


def _measure(chosen: list[BenchVariant], warmup: int, keep: bool) -> list[BenchResult]:
    try:
        plans = plan_all(chosen)
        return list(measure_all(chosen, plans, warmup=warmup, keep=keep, say=click.echo))
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None
    except KeyboardInterrupt:
        click.echo("stopped: an unfinished benchmark has no result", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED) from None
