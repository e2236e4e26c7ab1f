"""A checkpoint as a Hugging Face folder that answers like the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from gemfit.data.render.renderer import prompt_ids
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import ExitCode, UserError
from gemfit.export import weights
from gemfit.export.chat_template import generation_settings, tokenizer_for_chat
from gemfit.export.export import export, main
from gemfit.export.weights import plan_shards, weights_of_checkpoint, write_weights
from gemfit.rundir import RunDir
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe, ScratchModel
from train.trained import IDS, Trained, conversation, train

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def scratch(lora: Lora | None = None) -> ModelRecipe:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tiny = ScratchModel(vocab_size=400, **sizes, head_dim=24)
    return ModelRecipe(scratch=tiny, dtype="float32", attention="sdpa", lora=lora)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("full"), scratch())


def logits_of(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits


def test_the_exported_model_has_the_logits_of_the_live_one(trained: Trained, tmp_path: Path) -> None:
    done = export(trained.run, tmp_path / "out")
    assert torch.equal(logits_of(tmp_path / "out"), trained.logits)
    assert done["step"] == 2
    assert done["parameters"] == sum(p.numel() for p in trained.model.parameters())


def test_a_dtype_that_is_asked_for_is_written(trained: Trained, tmp_path: Path) -> None:
    export(trained.run, tmp_path / "out", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    for name, parameter in trained.model.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.to(torch.bfloat16)), name


def test_the_cache_is_on_again_and_generation_stops_where_training_did(
    trained: Trained, tmp_path: Path
) -> None:
    export(trained.run, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert trained.model.config.use_cache is False
    assert model.config.use_cache is True
    assert model.generation_config.use_cache is True
    assert model.generation_config.eos_token_id == [trained.tokenizer.eos_token_id]
    assert type(model).__name__ == "Gemma3ForCausalLM"
    named = json.loads((tmp_path / "out/tokenizer_config.json").read_text())["tokenizer_class"]
    assert named == "PreTrainedTokenizerFast", "older versions of transformers know no other name"


def test_adapters_are_merged_into_the_exported_model(tmp_path: Path) -> None:
    lora = train(tmp_path, scratch(Lora(rank=4)))
    export(lora.run, tmp_path / "out")
    merged = logits_of(tmp_path / "out")
    torch.testing.assert_close(merged, lora.logits, rtol=1e-4, atol=1e-4)
    with lora.model.disable_adapter():
        assert not torch.allclose(merged, lora.logits, atol=1e-2), "the adapters do nothing"


@pytest.mark.parametrize(
    ("form", "eos"), [("role_markers", "token"), ("role_markers", "literal"), ("chat_template", "token")]
)
def test_the_exported_chat_template_gives_the_ids_of_training(
    trained: Trained,
    tmp_path: Path,
    form: Literal["role_markers", "chat_template"],
    eos: Literal["token", "literal"],
) -> None:
    data = DataRecipe(format=form, eos=eos)
    tokenizer_for_chat(trained.tokenizer, data).save_pretrained(str(tmp_path))
    elsewhere = AutoTokenizer.from_pretrained(tmp_path)
    for number in range(20):
        messages = conversation(number)
        rendered = elsewhere.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert rendered["input_ids"] == prompt_ids(messages, trained.tokenizer, form, eos)


def test_nothing_merges_across_a_marker_of_the_exported_template(tmp_path: Path) -> None:
    # Text that is full of markers teaches the tokenizer to merge them with what stands next to them.
    packed = train_tokenizer(["<|user|>'tis so.<|eos|><|assistant|>'tis"] * 50, 340)
    messages = [{"role": "user", "content": "'tis so."}]
    for eos in ("token", "literal"):
        elsewhere = tokenizer_for_chat(packed, DataRecipe(eos=eos))
        elsewhere.save_pretrained(str(tmp_path / eos))
        rendered = AutoTokenizer.from_pretrained(tmp_path / eos).apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert rendered == prompt_ids(messages, packed, "role_markers", eos)
        careless = packed.apply_chat_template(
            messages, chat_template=elsewhere.chat_template, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert careless != rendered, "the tokenizer has not learned to merge across a marker"


def test_generation_stops_at_every_end_that_was_trained(trained: Trained) -> None:
    tokenizer, saved = trained.tokenizer, {"eos_token_id": 1, "top_k": 64}
    turn_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    chat = generation_settings(saved, tokenizer, DataRecipe(format="chat_template"))
    assert chat["eos_token_id"] == sorted([tokenizer.eos_token_id, turn_end])
    assert chat["top_k"] == 64, "sampling settings of the base model are copied"
    literal = generation_settings(saved, tokenizer, DataRecipe(eos="literal"))
    assert literal["stop_strings"] == ["<|eos|>"]


def test_a_large_model_is_written_in_shards(trained: Trained, tmp_path: Path) -> None:
    export(trained.run, tmp_path / "out")
    (tmp_path / "out/model.safetensors").unlink()
    weights = weights_of_checkpoint(trained.run.checkpoint(2))
    write_weights(weights, tmp_path / "out", torch.float32, shard_bytes=60_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert torch.equal(logits_of(tmp_path / "out"), trained.logits)


@given(sizes=st.lists(st.integers(1, 50)), limit=st.integers(1, 40))
def test_shards_hold_every_tensor_once_and_no_more_than_fit(sizes: list[int], limit: int) -> None:
    named = {str(index): size for index, size in enumerate(sizes)}
    shards = plan_shards(named, limit)
    assert [name for shard in shards for name in shard] == list(named)
    assert all(len(shard) == 1 or sum(named[name] for name in shard) <= limit for shard in shards)


def test_a_folder_that_holds_anything_is_refused_and_unchanged(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; remove it, or choose another --out"):
        export(trained.run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*_: object, **__: object) -> None:
        raise SafetensorError("Error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", fill_the_disk)
    with pytest.raises(UserError, match="the disk is full"):
        export(trained.run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_adapters_alone_need_a_model_to_go_with(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--adapter needs a run with model\.lora on a model\.id"):
        export(trained.run, tmp_path / "out", adapter=True)


def test_a_run_without_a_checkpoint_says_so(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.create(tmp_path / "run", trained.run.plan())
    assert main([str(run.root), "--out", str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "error: " in (error := capsys.readouterr().err)
    assert "no valid checkpoint yet" in error
    assert main([str(trained.run.root), "--out", str(tmp_path / "out"), "--checkpoint", "9"]) == 2
    assert "steps saved: 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_was_written_is_printed_as_json(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trained.run.root), "--out", str(tmp_path / "out"), "--json"]) == ExitCode.DONE
    written = json.loads(capsys.readouterr().out)
    assert written["step"] == 2
    assert written["dtype"] == "float32"
    assert set(written["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
