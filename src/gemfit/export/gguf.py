"""An export in GGUF by llama.cpp's converter, with a Modelfile for Ollama.

The converter is ``convert_hf_to_gguf.py`` of a checkout of llama.cpp; no package on PyPI installs it. It
reads a model folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gemfit.core.process_group import MODEL_READER_SECONDS, run_with_children
from gemfit.data.render.renderer import stop_ids
from gemfit.data.render.template_segments import TemplateSegments, chat_template
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

CONVERTER = "convert_hf_to_gguf.py"
TYPES = {"bfloat16": "bf16", "float32": "f32"}
MODELFILE = "Modelfile"


def find_converter(given: Path | None) -> Path:
    """The converter that was named, or the one on PATH; ``UserError`` where there is none."""
    found = given or shutil.which(CONVERTER)
    if found is None or not Path(found).is_file():
        where = f"{given}: there is no such file" if given else f"{CONVERTER} is not on PATH"
        raise UserError(
            f"{where}; --format gguf needs llama.cpp's converter: git clone "
            "https://github.com/ggml-org/llama.cpp, and give --converter llama.cpp/convert_hf_to_gguf.py "
            "(it also needs the package sentencepiece)"
        )
    return Path(found)


def check_format(data: DataRecipe) -> None:
    """``UserError`` for a format whose control texts are no special tokens of the base model."""
    if data.format != "chat_template":
        raise UserError(
            "--format gguf needs a run with data.format: chat_template: in GGUF nothing keeps the markers of "
            "role_markers from merging with the text next to them, so a prompt would have other tokens"
        )


def convert(
    model: Path, folder: Path, dtype: str, converter: Path, seconds: float = MODEL_READER_SECONDS
) -> Path:
    """Write ``model-TYPE.gguf`` into ``folder`` from the model folder ``model``.

    A converter that fails is a ``UserError``, and so is one that takes more than ``seconds``: it is ended
    with all that it has started.
    """
    out = folder / f"model-{TYPES[dtype]}.gguf"
    command = [sys.executable, str(converter), str(model), "--outtype", TYPES[dtype], "--outfile", str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = run_with_children(command, seconds=seconds, environment=environment)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{converter}: took more than {seconds:g} seconds and was ended; "
            "--timeout SECONDS gives it longer"
        ) from None
    if done.returncode != 0 or not out.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        known = "pre-tokenizer was not recognized" in done.stderr
        why = (
            "it reads the vocabulary of Gemma from tokenizer.model, which this run's tokenizer lacks"
            if known
            else (lines[-1] if lines else "no output")
        )
        raise UserError(f"{converter}: cannot convert the model: {why}")
    return out


def write_modelfile(gguf: Path, tokenizer: Any, data: DataRecipe) -> None:
    """Ollama's Modelfile next to ``gguf``: the run's chat format as a Go template, and where a reply ends."""
    segments = chat_template(tokenizer)
    stops = [tokenizer.decode([token]) for token in stop_ids(tokenizer, data.format, data.eos)]
    for stop in stops:
        if not stop or set(stop) & set('"\r\n'):
            raise UserError(f"a reply ends at {stop!r}, which a Modelfile cannot hold")
    lines = [
        f"FROM ./{gguf.name}",
        f'TEMPLATE """{go_template(segments, tokenizer.bos_token or "")}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    (gguf.parent / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def go_template(segments: TemplateSegments, bos: str) -> str:
    """``segments`` in Go's template language. BOS is left out: llama.cpp itself puts it before a prompt."""
    user, assistant = segments.headers["user"], segments.headers["assistant"]
    before, mark, header = segments.system_before.removeprefix(bos), "", user
    if segments.system_inside:  # the header of the user precedes the system text already
        mark, header = (
            "{{ $inside = true }}",
            "{{ if not $inside }}" + user + "{{ end }}{{ $inside = false }}",
        )
    texts = [segments.begin.removeprefix(bos), user, assistant, before, segments.system_after]
    texts += [segments.reply, *segments.ends.values()]
    # An action of Go may begin right after a text.
    odd = next((text for text in texts if "{{" in text or text.endswith("{")), None)
    template = "".join(
        (
            "{{ $inside := false }}" if segments.system_inside else "",
            segments.begin.removeprefix(bos),
            '{{ range .Messages }}{{ if eq .Role "system" }}',
            f"{before}{{{{ .Content }}}}{segments.system_after}{mark}",
            '{{ else if eq .Role "user" }}',
            f"{header}{{{{ .Content }}}}{segments.ends['user']}",
            '{{ else if eq .Role "assistant" }}',
            f"{assistant}{{{{ .Content }}}}{segments.ends['assistant']}",
            "{{ end }}{{ end }}",
            segments.reply,
        )
    )
    if odd is None and ('"""' in template or template.endswith('"')):
        odd = '"""'
    if odd is not None:
        raise UserError(f"the chat template writes {odd!r}, which a Modelfile cannot hold")
    return template
