"""``gemfit pack``."""

from __future__ import annotations

import re
from dataclasses import replace

import click

from gemfit.errors import UserError
from gemfit.schemas.find_inputs import is_stream, is_url
from gemfit.schemas.pack_job import make_pack_job, pack_folder
from gemfit_launch.argv import to_argv
from gemfit_launch.output.tables import show_pack
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack, make_shard
from gemfit_launch.runs.fetch_input import fetch_input
from gemfit_launch.runs.spool_input import spool_input
from gemfit_launch.verbs._options import json_option, request_options


def _shard(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r}: write i/n, with i from 1 to n")
    return value


@click.command()
@request_options()
@click.option("--force", is_flag=True, help="Rebuild an existing pack.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [default: all cores]")
@click.option("--shard", metavar="I/N", callback=_shard, help="Build shard I of N; --merge joins them.")
@click.option("--merge", is_flag=True, help="Join the shards of --shard.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "tokenizers", "gigatoken"]),
    default="auto",
    show_default=True,
    help="Tokenizer engine; all give the same tokens.",
)
@json_option
def pack(
    request: Request,
    force: bool,
    workers: int | None,
    shard: str | None,
    merge: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Pack conversations into rows.

    The pack is cached under a fingerprint of data, tokenizer and settings, so a second call finds it. An
    interrupted build resumes, and data that was appended to costs only what is new.
    Cache: $GEMFIT_CACHE, else ~/.cache/gemfit; $GEMFIT_BLOCKS_GIB bounds what is cached for later builds
    (default 20; 0 caches nothing).

    \b
    Example:
      gemfit pack gemma3/1b-reference --data chat.jsonl
      gemfit pack debug/cpu-tiny --data 'chats/*.jsonl.zst' --set data.seq_len=2048 --json
      zcat chats.gz | gemfit pack debug/cpu-tiny --data -
    \b
    On eight nodes with a shared cache, then on one:
      sbatch --array=1-8 --wrap 'gemfit pack RECIPE --data DATA --shard $SLURM_ARRAY_TASK_ID/8'
      gemfit pack RECIPE --data DATA --merge
    """
    if shard and (merge or force or as_json):
        raise UserError("--shard builds one shard only: use it without --merge, --force and --json")
    if request.data is not None and (is_stream(request.data) or is_url(request.data)):
        keep = fetch_input if is_url(request.data) else spool_input
        request = replace(request, data=str(keep(request.data, lambda line: click.echo(line, err=True))))
    job = make_pack_job(request.pinned_recipe())
    folder = pack_folder(job.fingerprint)
    options = to_argv({"engine": engine if engine != "auto" else None, "workers": workers})
    try:
        if shard:
            make_shard(job, folder, shard, options=options)
            return
        options += to_argv({"merge": merge})
        manifest = ensure_pack(
            job, folder, force=force, say=lambda line: click.echo(line, err=True), options=options
        )
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        show_pack(manifest, str(folder))
