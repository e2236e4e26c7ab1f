"""``gemfit export --format gguf``: how the converter is found and called, and the Modelfile.

llama.cpp's converter is no package, so a stand-in takes its place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemfit.data.render.template_segments import TemplateSegments
from gemfit.errors import UserError
from gemfit.export import gguf
from gemfit.export.export import export
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from train.trained import make_run, write_conversations

GEMMA = TemplateSegments(
    begin="<bos>",
    headers={"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"},
    ends={"user": "<end_of_turn>\n", "assistant": "<end_of_turn>\n"},
    system_before="<bos><start_of_turn>user\n",
    system_after="\n\n",
    system_inside=True,
    reply="<start_of_turn>model\n",
)
IN_GO = """{{ $inside := false }}{{ range .Messages }}{{ if eq .Role "system" }}<start_of_turn>user
{{ .Content }}

{{ $inside = true }}{{ else if eq .Role "user" }}{{ if not $inside }}<start_of_turn>user
{{ end }}{{ $inside = false }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}{{ end }}<start_of_turn>model
"""
CONVERTER = """
import sys
from pathlib import Path
model, options = Path(sys.argv[1]), dict(zip(sys.argv[2::2], sys.argv[3::2]))
if (model / "fails").exists():
    sys.exit("NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")
assert (model / "config.json").is_file()
Path(options["--outfile"]).write_text(options["--outtype"])
"""


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    path = tmp_path / gguf.CONVERTER
    path.write_text(CONVERTER)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").touch()
    return folder


def test_the_format_of_gemma_in_go() -> None:
    assert gguf.go_template(GEMMA, "<bos>") == IN_GO


def test_a_system_turn_of_its_own_has_no_variable() -> None:
    apart = TemplateSegments(
        begin="",
        headers={"user": "<u>", "assistant": "<a>"},
        ends={"user": "</u>", "assistant": "</a>"},
        system_before="<s>",
        system_after="</s>",
        system_inside=False,
        reply="<a>",
    )
    assert gguf.go_template(apart, "<bos>") == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<s>{{ .Content }}</s>{{ else if eq .Role "user" }}'
        '<u>{{ .Content }}</u>{{ else if eq .Role "assistant" }}<a>{{ .Content }}</a>{{ end }}{{ end }}<a>'
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"user": "{{", "assistant": ""}},
        {"headers": {"user": "", "assistant": "{"}},
        {"begin": '"""'},
        {"reply": '{"role": "'},
    ],
)
def test_texts_that_a_modelfile_cannot_hold_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="which a Modelfile cannot hold"):
        gguf.go_template(replace(GEMMA, **changes), "<bos>")


@pytest.mark.parametrize("stop", ['a"b', "end\n", ""])
def test_stops_that_a_modelfile_cannot_hold_are_refused(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "chat_template", lambda tokenizer: GEMMA)
    monkeypatch.setattr(gguf, "stop_ids", lambda tokenizer, format, eos: [1])
    tokenizer = SimpleNamespace(bos_token="<bos>", decode=lambda ids: stop)
    with pytest.raises(UserError, match=r"a reply ends at .*, which a Modelfile cannot hold"):
        gguf.write_modelfile(tmp_path / "model.gguf", tokenizer, DataRecipe(format="chat_template"))


def test_the_modelfile_names_the_file_and_the_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "chat_template", lambda tokenizer: GEMMA)
    monkeypatch.setattr(gguf, "stop_ids", lambda tokenizer, format, eos: [1, 106])
    words = {1: "<eos>", 106: "<end_of_turn>"}
    tokenizer = SimpleNamespace(bos_token="<bos>", decode=lambda ids: words[ids[0]])
    gguf.write_modelfile(tmp_path / "model-bf16.gguf", tokenizer, DataRecipe(format="chat_template"))
    assert (tmp_path / "Modelfile").read_text() == (
        f'FROM ./model-bf16.gguf\nTEMPLATE """{IN_GO}"""\n'
        'PARAMETER stop "<eos>"\nPARAMETER stop "<end_of_turn>"\n'
    )


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "bf16"), ("float32", "f32")])
def test_the_converter_writes_the_type_of_the_weights(
    converter: Path, model: Path, tmp_path: Path, dtype: str, name: str
) -> None:
    written = gguf.convert(model, tmp_path, dtype, converter)
    assert written == tmp_path / f"model-{name}.gguf"
    assert written.read_text() == name


def test_a_base_without_a_sentencepiece_model_is_said_so(
    converter: Path, model: Path, tmp_path: Path
) -> None:
    (model / "fails").touch()
    with pytest.raises(UserError, match=r"vocabulary of Gemma from tokenizer\.model"):
        gguf.convert(model, tmp_path, "float32", converter)


def test_a_converter_that_does_not_end_is_ended_and_named(
    converter: Path, model: Path, tmp_path: Path
) -> None:
    converter.write_text("import time; time.sleep(1000)")
    with pytest.raises(
        UserError, match=f"{converter}: took more than 2 seconds and was ended; --timeout SECONDS"
    ):
        gguf.convert(model, tmp_path, "float32", converter, seconds=2)


def test_the_converter_is_named_or_on_path(
    converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gguf.find_converter(converter) == converter
    converter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gguf.find_converter(None) == converter
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"is not on PATH; --format gguf needs llama\.cpp's converter"):
        gguf.find_converter(None)
    with pytest.raises(UserError, match="there is no such file"):
        gguf.find_converter(tmp_path / "none.py")


def test_role_markers_and_other_forms_are_refused_before_anything_is_read(
    converter: Path, tmp_path: Path
) -> None:
    data = DataRecipe(source=str(write_conversations(tmp_path / "data.jsonl")), seq_len=128)
    run = make_run(tmp_path, Recipe(model=ModelRecipe(scratch=ScratchModel(vocab_size=400)), data=data))
    with pytest.raises(UserError, match=r"needs a run with data\.format: chat_template"):
        export(run, tmp_path / "out", gguf=True, converter=converter)
    with pytest.raises(UserError, match="leave --adapter and --multimodal out"):
        export(run, tmp_path / "out", gguf=True, converter=converter, multimodal=True)
