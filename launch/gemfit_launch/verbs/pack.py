"""``gemfit pack``."""

from __future__ import annotations

import click

from gemfit.packing import make_pack_job, pack_folder
from gemfit_launch.options import json_option, request_options
from gemfit_launch.packer import PackFailed, ensure_pack
from gemfit_launch.report import show_pack
from gemfit_launch.request import Request


@click.command()
@request_options()
@click.option("--force", is_flag=True, help="Build it again even if it is there.")
@json_option
def pack(request: Request, force: bool, as_json: bool) -> None:
    """Turn conversations into packed rows, once.

    The pack is kept under a fingerprint of data, tokenizer and settings, so a second call finds it.
    Cache: $GEMFIT_CACHE, else ~/.cache/gemfit.

    \b
    Example:
      gemfit pack gemma3/1b-card --data talks.jsonl
      gemfit pack debug/cpu-tiny --data 'talks/*.jsonl.zst' --set data.seq_len=2048 --json
    """
    job = make_pack_job(request.recipe())
    folder = pack_folder(job.fingerprint)
    try:
        manifest = ensure_pack(job, folder, force=force, say=lambda line: click.echo(line, err=True))
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        show_pack(manifest, str(folder))
