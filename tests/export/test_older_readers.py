"""Exports for programs that read keys and files of transformers 4."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig

from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.export.base_model import find_base_model
from gemfit.export.export import export, give_default_mode, main
from gemfit.export.older_readers import with_old_keys, write_old_tokenizer_keys
from gemfit.export.user_statements import UserStatements, add_statements
from gemfit.schemas.recipe_model import Lora, ModelRecipe
from train.trained import Trained, train, write_conversations

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
SENTENCEPIECE = b"a SentencePiece model"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with scaled RoPE, a list of extra special tokens and a SentencePiece model."""
    folder = tmp_path_factory.mktemp("home") / "base"
    texts = write_conversations(folder.parent / "texts.jsonl").read_text()
    tokenizer = train_tokenizer([texts] * 4, 400)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=7,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        rope_parameters=ROPE,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(SENTENCEPIECE)
    return folder


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    model = ModelRecipe(id=str(base), revision="v1.0", dtype="float32", attention="sdpa", lora=Lora(rank=4))
    return train(tmp_path_factory.mktemp("lora"), model)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_rope_special_tokens_and_dtype_have_the_keys_of_transformers_4(lora: Trained, tmp_path: Path) -> None:
    export(lora.run, tmp_path / "out")
    config = read(tmp_path / "out/config.json")
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert AutoConfig.from_pretrained(tmp_path / "out").rope_parameters == config["rope_parameters"]


def test_a_list_of_special_tokens_has_the_key_of_transformers_4(lora: Trained, tmp_path: Path) -> None:
    lora.tokenizer.save_pretrained(str(tmp_path))
    write_old_tokenizer_keys(tmp_path, text_only=True)
    config = read(tmp_path / "tokenizer_config.json")
    assert config["additional_special_tokens"] == ["<start_of_turn>", "<end_of_turn>"]
    assert "extra_special_tokens" not in config
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert set(loaded.all_special_tokens) == set(lora.tokenizer.all_special_tokens)


@pytest.mark.parametrize("text_only", [True, False])
def test_a_model_of_text_alone_names_no_processor_of_images(text_only: bool, tmp_path: Path) -> None:
    config = {"tokenizer_class": "GemmaTokenizer", "processor_class": "Gemma3Processor"}
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(config))
    write_old_tokenizer_keys(tmp_path, text_only=text_only)
    assert ("processor_class" in json.loads(path.read_text())) is not text_only


def test_configurations_without_scaling_and_of_one_kind_of_layers() -> None:
    llama = with_old_keys(LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5}).to_dict())
    assert llama["rope_theta"] == 5e5
    assert "rope_scaling" not in llama
    assert "rope_local_base_freq" not in llama
    nested = with_old_keys({"text_config": {"rope_parameters": ROPE, "dtype": "bfloat16"}, "rope_theta": 3})
    assert nested["text_config"]["rope_scaling"]["factor"] == 8.0
    assert nested["text_config"]["torch_dtype"] == "bfloat16"
    assert nested["rope_theta"] == 3
    newer = {"rope_parameters": {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6}}}
    assert with_old_keys(newer) == newer


def test_the_sentencepiece_model_is_kept_where_the_vocabulary_is_the_base_models(
    lora: Trained, base: Path, tmp_path: Path
) -> None:
    export(lora.run, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.model").read_bytes() == SENTENCEPIECE
    packed = Path(lora.run.plan().pack.folder) / "tokenizer/tokenizer.model"
    packed.unlink()  # as in packs of tokenizers that transformers has saved
    try:
        export(lora.run, tmp_path / "again", adapter=True)
    finally:
        packed.write_bytes(SENTENCEPIECE)
    assert (tmp_path / "again/tokenizer.model").read_bytes() == SENTENCEPIECE


def test_an_adapter_names_its_base_by_the_hub_and_no_path_of_this_machine(
    lora: Trained, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(lora.run, tmp_path / "unknown", adapter=True)
    config = read(tmp_path / "unknown/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("base", None)
    assert "--base-model NAMESPACE/NAME" in caplog.text
    add_statements(lora.run, UserStatements(base_model="google/gemma-3-1b-it"))
    export(lora.run, tmp_path / "stated", adapter=True)
    config = read(tmp_path / "stated/adapter_config.json")
    assert config["base_model_name_or_path"] == "google/gemma-3-1b-it"
    for path in (*(tmp_path / "stated").iterdir(), *(tmp_path / "unknown").iterdir()):
        assert str(base.parent).encode() not in path.read_bytes(), path.name


def test_name_and_revision_come_from_the_recipe_or_from_the_cache_of_the_hub(lora: Trained) -> None:
    plan = lora.run.plan()

    def found(name: str) -> tuple[str | None, str | None]:
        model = plan.recipe.model.model_copy(update={"id": name, "revision": "v1.0"})
        recipe = plan.recipe.model_copy(update={"model": model})
        base = find_base_model(plan.model_copy(update={"recipe": recipe}), UserStatements())
        return base.hub_id, base.revision

    assert found("google/gemma-3-1b-it") == ("google/gemma-3-1b-it", "v1.0")
    cached = f"/cache/hub/models--google--gemma-3-1b-it/snapshots/{SHA}"
    assert found(cached) == ("google/gemma-3-1b-it", SHA)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_files_have_the_mode_of_the_umask(lora: Trained, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for name, adapter in (("merged", False), ("adapter", True)):
            export(lora.run, tmp_path / name, adapter=adapter)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_folders_inside_an_export_stay_readable(tmp_path: Path) -> None:
    templates = tmp_path / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").touch(mode=0o600)
    mode = templates.stat().st_mode
    give_default_mode(tmp_path)
    assert templates.stat().st_mode == mode
    assert (templates / "tool_use.jinja").stat().st_mode & 0o700 == 0o600
    assert (templates / "tool_use.jinja").stat().st_mode & 0o077 == mode & 0o066


def test_shards_have_the_size_that_is_asked_for(lora: Trained, tmp_path: Path) -> None:
    assert main([str(lora.run.root), "--out", str(tmp_path / "out"), "--shard-gb", "0.00002"]) == 0
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1


def test_a_folder_that_cannot_be_made_is_an_error_not_a_traceback(
    lora: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(lora.run.root), "--out", "/proc/x"]) == 2
    assert "error: /proc/x" in capsys.readouterr().err
