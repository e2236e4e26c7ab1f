"""``gemfit export``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import ask_module, require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@checkpoint_option(base=False)
@click.option("--out", type=RUN_FOLDER, help="Output folder.  [default: RUN/export]")
@click.option("--multimodal", is_flag=True, help="Add the base model's vision tower (4b and larger).")
@click.option("--adapter", is_flag=True, help="Write the LoRA adapter alone, not merged.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="Type of the weights.  [default: the recipe's]",
)
@click.option(
    "--shard-gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Largest file of weights.  [default: 5]",
)
@click.option(
    "--format",
    type=click.Choice(["safetensors", "gguf"]),
    help="gguf: one file for llama.cpp, and a Modelfile for Ollama.  [default: safetensors]",
)
@click.option(
    "--converter",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="llama.cpp's convert_hf_to_gguf.py.  [default: the one on PATH]",
)
@click.option("--check", is_flag=True, help="Load it with other programs and compare; RUN/export as it is.")
@click.option(
    "--python",
    "pythons",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="With --check: Python of an environment with transformers, vLLM; repeatable.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --check, gguf: of each program, which is ended after it.  [default: 1800]",
)
@json_option
def export(
    run: Path,
    out: Path | None,
    as_json: bool,
    check: bool,
    pythons: tuple[Path, ...],
    timeout: float | None,
    checkpoint: str | None,
    **options: object,
) -> None:
    """Export a Hugging Face model folder.

    A text-only model, unless --multimodal. --check loads the folder with transformers (an adapter:
    peft), `transformers serve` and vLLM, those installed here and those of --python, and compares the
    loss of validation rows, the tokens of greedy replies and their stop with the run's own model, in
    float32 on the CPU; a folder that exists is checked as it is. Exit status of --check: 0 all are equal,
    1 one differs or cannot load it.

    \b
    Example:
      gemfit export runs/chat --format gguf --converter ~/llama.cpp/convert_hf_to_gguf.py --out gguf
      gemfit export runs/first --checkpoint best
      gemfit export runs/first --checkpoint 200 --out models/first
      gemfit export runs/lora --adapter --dtype bfloat16
      gemfit export runs/first --check --python ~/transformers4/bin/python
    """
    run_dir = RunDir.open(run)
    if pythons and not check:
        raise click.UsageError("--python names readers of --check; give --check with it")
    if timeout is not None and not check and options["format"] != "gguf":
        raise click.UsageError("--timeout is about other programs; give --check or --format gguf with it")
    if check and options["format"] == "gguf":
        raise click.UsageError("--check loads model folders; check one without --format gguf")
    if options["converter"] is not None and options["format"] != "gguf":
        raise click.UsageError("--converter has an effect with --format gguf only")
    if options["shard_gb"] is not None and options["format"] == "gguf":
        raise click.UsageError("--format gguf writes one file; leave --shard-gb out")
    require_train_extra("export")
    folder = out or run_dir.export
    chosen = to_argv({"checkpoint": checkpoint})
    exists = check and folder.is_dir() and any(folder.iterdir())
    if exists and (unused := to_argv(options)):
        raise UserError(
            f"{folder}: exists and is checked as it is, so {unused[0]} has no effect; leave it out"
        )
    argv = [str(run), *to_argv({"out": folder}), *chosen, *to_argv(options)]
    if check and not exists:
        click.echo(ask_module("gemfit.export.export", argv).strip(), err=True)
    elif not check:
        more = to_argv({"timeout": timeout, "json": as_json})
        raise click.exceptions.Exit(run_module("gemfit.export.export", [*argv, *more]))
    asked = to_argv({"python": pythons, "timeout": timeout, "json": as_json})
    raise click.exceptions.Exit(
        ExitCode(run_module("gemfit.export_check", [str(run), str(folder), *chosen, *asked]))
    )
