"""``python -m gemfit.export.export RUN --out DIR``: a checkpoint as a Hugging Face model folder.

Needs neither a GPU nor other processes, whatever strategy and world size wrote the checkpoint. The
folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

from gemfit.checkpoint.resolve_checkpoint import LATEST, resolve_trained
from gemfit.checkpoint.retention import reading
from gemfit.checkpoint.store import Found
from gemfit.core.atomic_folder import staging
from gemfit.core.json_file import read_json_object
from gemfit.core.module_main import run_main
from gemfit.core.one_writer import one_writer
from gemfit.core.process_group import MODEL_READER_SECONDS
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.recipe import Recipe

logger = logging.getLogger(__name__)

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SHARD_GB = 5.0
"""Largest file of weights, as transformers has it."""


def main(argv: list[str] | None = None) -> int:
    """Parse the options, export, print what was written."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # Before transformers is imported: it would log about frameworks and draw progress bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return run_main(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> ExitCode:
    done = export(
        RunDir.open(arguments.run),
        arguments.out,
        checkpoint=arguments.checkpoint,
        dtype=arguments.dtype,
        adapter=arguments.adapter,
        multimodal=arguments.multimodal,
        shard_gb=arguments.shard_gb,
        gguf=arguments.format == "gguf",
        converter=arguments.converter,
        converter_seconds=arguments.timeout,
    )
    line = "{folder}: step {step}, {parameters:,} parameters in {dtype}\n".format(**done)
    sys.stdout.write(json.dumps(done, indent=2) + "\n" if arguments.json else line)
    return ExitCode.DONE


def export(
    run: RunDir,
    out: Path,
    *,
    checkpoint: str = LATEST,
    dtype: str | None = None,
    adapter: bool = False,
    multimodal: bool = False,
    shard_gb: float = SHARD_GB,
    gguf: bool = False,
    converter: Path | None = None,
    converter_seconds: float = MODEL_READER_SECONDS,
    verified: Found | None = None,
) -> dict[str, Any]:
    """Write the model folder ``out`` from ``checkpoint``: a step, `latest` or `best`.

    ``dtype`` defaults to the recipe's. ``adapter`` writes a LoRA alone instead of merging it.
    ``multimodal`` puts the text model back into the checkpoint that it was taken from, with its other
    parts; otherwise the folder is a text-only model. A file of weights has at most ``shard_gb`` GB.
    ``gguf`` writes one file in GGUF and a Modelfile instead, by ``converter`` or the one on PATH,
    which is ended after ``converter_seconds``.
    A checkpoint that still is ``verified``, as the caller has found it whole, is not verified again.
    One process writes ``out`` at a time, and removes what a killed one has left. Raises ``UserError`` where
    there is no whole checkpoint, and for an ``out`` that holds anything.
    """
    recipe = run.plan().recipe
    if adapter and (recipe.model.lora is None or recipe.model.id is None):
        raise UserError(f"{run.root}: --adapter needs a run with model.lora on a model.id; leave it out")
    if adapter and multimodal:
        raise UserError("--adapter always fits the base model, multimodal or not; leave --multimodal out")
    if gguf:
        converter = _check_gguf(run, recipe, converter, adapter=adapter, multimodal=multimodal)
    _check_empty(out)
    source, manifest = _whole_checkpoint(run, checkpoint, verified)
    with reading(source), one_writer(out.absolute(), logger.warning), staging(out.absolute()) as folder:
        _check_empty(out)  # once more: another process may have been waited for
        form: dict[str, Any] = {"adapter": adapter, "multimodal": multimodal, "shard_gb": shard_gb}
        dtype = dtype or recipe.model.dtype
        if gguf:
            assert converter is not None, "found before"
            written = _write_gguf(run, recipe, source, folder, dtype, converter, converter_seconds, **form)
        else:
            written = _write(run, recipe, source, folder, dtype=dtype, **form)
    return {"folder": str(out), "step": manifest.step, "eval_loss": manifest.eval_loss, **written}


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; remove it, or choose another --out")


def _whole_checkpoint(run: RunDir, which: str, verified: Found | None) -> Found:
    unchanged = verified is not None and resolve_trained(run, which, verify=False) == verified
    return verified if verified is not None and unchanged else resolve_trained(run, which)


def _check_gguf(
    run: RunDir, recipe: Recipe, converter: Path | None, *, adapter: bool, multimodal: bool
) -> Path:
    """The converter; ``UserError`` for options and runs that GGUF is not written for."""
    from gemfit.export.gguf import check_format, find_converter  # noqa: PLC0415  (seconds of imports)

    if adapter or multimodal:
        raise UserError("--format gguf writes the text model, merged; leave --adapter and --multimodal out")
    check_format(recipe.data)
    return find_converter(converter)


def _write_gguf(
    run: RunDir,
    recipe: Recipe,
    checkpoint: Path,
    folder: Path,
    dtype: str,
    converter: Path,
    converter_seconds: float,
    **form: Any,
) -> dict[str, Any]:
    """Write a model folder, convert it, and keep what the converter wrote."""
    from gemfit.export.gguf import convert, write_modelfile  # noqa: PLC0415  (seconds of imports)

    model = folder / "safetensors"
    model.mkdir()
    written = _write(run, recipe, checkpoint, model, dtype=dtype, **form)
    gguf = convert(model, folder, dtype, converter, converter_seconds)
    shutil.rmtree(model)
    write_modelfile(gguf, packed_tokenizer(run), recipe.data)
    give_default_mode(folder)
    return {**written, "files": sorted(path.name for path in folder.iterdir())}


def _write(
    run: RunDir,
    recipe: Recipe,
    checkpoint: Path,
    folder: Path,
    *,
    dtype: str,
    adapter: bool,
    multimodal: bool,
    shard_gb: float,
) -> dict[str, Any]:
    # Seconds of imports, so that errors come without the wait.
    from gemfit.export.adapter_base import write_adapter_base  # noqa: PLC0415
    from gemfit.export.merged_weights import merged_weights  # noqa: PLC0415
    from gemfit.export.multimodal import find_base, nest_adapter, nested, write_rest  # noqa: PLC0415
    from gemfit.export.weights import trained_weights, write_adapter, write_weights  # noqa: PLC0415

    tokenizer = packed_tokenizer(run)
    base = find_base(recipe.model) if multimodal or adapter else None
    if multimodal and base is None:
        raise UserError(f"{run.root}: --multimodal needs a run on a multimodal model.id; leave it out")
    if adapter:
        parameters = write_adapter(recipe, tokenizer, checkpoint, folder, dtype)
        if base is not None:
            nest_adapter(folder)
        write_adapter_base(run, folder)
    else:
        torch_dtype, merged = _torch_dtype(dtype), recipe.model.lora is not None
        weights = (
            merged_weights(recipe, tokenizer, checkpoint) if merged else trained_weights(recipe, checkpoint)
        )
        weights = weights if base is None else nested(weights, base.weights)
        parameters = write_weights(weights, folder, torch_dtype, shard_bytes=int(shard_gb * 1e9))
    if base is not None and not adapter:
        write_rest(base, folder, dtype)
    elif not adapter:
        _write_config(checkpoint, folder, dtype)
    _write_tokenizer(run, recipe, tokenizer, folder, text_only=base is None)
    _write_generation_config(recipe, tokenizer, checkpoint, folder)
    give_default_mode(folder)
    return {"parameters": parameters, "dtype": dtype, "files": sorted(p.name for p in folder.iterdir())}


def _write_tokenizer(run: RunDir, recipe: Recipe, tokenizer: Any, folder: Path, *, text_only: bool) -> None:
    from gemfit.data.tokenize.tokenizer import save_tokenizer  # noqa: PLC0415  (seconds of imports)
    from gemfit.export.chat_template import check_same_ids, tokenizer_for_chat  # noqa: PLC0415
    from gemfit.export.older_readers import copy_sentencepiece, write_old_tokenizer_keys  # noqa: PLC0415

    exported = tokenizer_for_chat(tokenizer, recipe.data, text_only=text_only)
    check_same_ids(exported, tokenizer, recipe.data)
    save_tokenizer(exported, folder)
    write_old_tokenizer_keys(folder, text_only=text_only)
    copy_sentencepiece(tokenizer, Path(run.plan().pack.folder) / "tokenizer", recipe.model, folder)


def _write_config(checkpoint: Path, folder: Path, dtype: str) -> None:
    from gemfit.export.older_readers import with_old_keys  # noqa: PLC0415  (seconds of imports)

    config = read_json_object(checkpoint / CONFIG) | {"use_cache": True, "dtype": dtype}
    config.pop("auto_map", None)  # names code that is not in the export
    _write_json(folder / CONFIG, with_old_keys(config))


def _write_generation_config(recipe: Recipe, tokenizer: Any, checkpoint: Path, folder: Path) -> None:
    from gemfit.export.chat_template import generation_settings  # noqa: PLC0415  (seconds of imports)

    path = checkpoint / GENERATION_CONFIG
    saved = read_json_object(path)
    _check_stops(path, saved.get("eos_token_id"), read_json_object(checkpoint / CONFIG).get("vocab_size"))
    _write_json(folder / GENERATION_CONFIG, generation_settings(saved, tokenizer, recipe.data))


def _check_stops(path: Path, stops: object, vocab_size: object) -> None:
    limit = vocab_size if type(vocab_size) is int else sys.maxsize
    listed = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if not all(type(one) is int and 0 <= one < limit for one in listed):
        below = f" below {limit} (vocab_size of {CONFIG})" if limit < sys.maxsize else ""
        raise UserError(f"{path}: eos_token_id is {stops!r}; it is a token id{below}, or a list of them")


def give_default_mode(folder: Path) -> None:
    """Give all files the mode that the umask asks for; safetensors makes its own for their owner alone."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():  # a folder needs its executable bits
            path.chmod(mode)


def _torch_dtype(name: str) -> Any:
    import torch  # noqa: PLC0415  (seconds)

    return getattr(torch, name)


def packed_tokenizer(run: RunDir) -> Any:
    """The tokenizer that the rows were packed with: the pack keeps a copy."""
    from gemfit.data.tokenize.tokenizer import load_tokenizer  # noqa: PLC0415  (imports transformers)

    plan = run.plan()
    packed, model = Path(plan.pack.folder) / "tokenizer", plan.recipe.model
    if packed.is_dir():
        return load_tokenizer(str(packed))
    if model.tokenizer_source is None:
        raise UserError(
            f"{packed}: the tokenizer of this run was trained with its pack, and the pack is gone"
        )
    return load_tokenizer(*model.tokenizer_source)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.export.export", description="Write a checkpoint as a Hugging Face folder."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; must be empty or new")
    parser.add_argument("--checkpoint", default=LATEST, help="a step, latest or best")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="the recipe's when left out")
    parser.add_argument("--adapter", action="store_true", help="write a LoRA alone, not merged")
    parser.add_argument(
        "--multimodal", action="store_true", help="merge the text model into the base model's other parts"
    )
    parser.add_argument("--format", choices=["safetensors", "gguf"], default="safetensors")
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument(
        "--timeout", type=float, default=MODEL_READER_SECONDS, help="seconds of the converter at most"
    )
    parser.add_argument("--shard-gb", type=float, default=SHARD_GB, help="GB of a file of weights at most")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
