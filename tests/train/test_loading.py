"""Weights are read from disk by the rank that holds them, and not at all where a checkpoint has them."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.distributed.meta_init import allocate_parameters
from gemfit.train.model import safetensors_reader
from gemfit.train.model.build import load_model, open_model
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.safetensors_reader import BaseWeights, TensorEntry
from gemfit.train.model.sharded_init import load_into

if TYPE_CHECKING:
    from train.conftest import Launch

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SIZES = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "sliding_window": 16,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)).save_pretrained(folder, max_shard_size="200KB")
    save_tokenizer(tokenizer, folder)
    return folder


def recipe_of(folder: Path, **settings: Any) -> Recipe:
    return Recipe(model=ModelRecipe(id=str(folder), attention="sdpa", dtype="float32", **settings), seed=7)


@given(shape=st.lists(st.integers(1, 6), max_size=3), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_any_range_of_a_tensor_is_read_as_it_lies_on_disk(
    shape: list[int], ends: tuple[float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({"w": tensor.to(torch.bfloat16)}, file)
    weights = BaseWeights({"w": TensorEntry(file, "w", tensor.shape, "BF16")}, {})
    start, stop = sorted(round(end * tensor.numel()) for end in ends)
    held = torch.full((stop - start,), torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_reader, "CHUNK_BYTES", 16)  # several reads for all but the smallest
        weights.fill("w", FlatShard(held, start, tensor.shape))
    assert torch.equal(held, tensor.flatten()[start:stop])


def test_an_opened_model_holds_no_weights_until_they_are_read(folder: Path, tokenizer: Any) -> None:
    model, weights = open_model(recipe_of(folder), tokenizer)
    assert weights is not None
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    allocate_parameters(model, torch.device("cpu"), torch.float32)
    assert all(parameter.isnan().all() for parameter in model.parameters()), "nothing passes for a weight"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    load_into(model, weights)
    expected = Gemma3ForCausalLM.from_pretrained(folder).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_adapters_begin_as_they_would_on_a_whole_model(folder: Path, tokenizer: Any) -> None:
    lora = Lora(rank=4)
    found = dict(load_model(recipe_of(folder, lora=lora), tokenizer).named_parameters())
    torch.manual_seed(7)
    whole = packed_class(Gemma3ForCausalLM).from_pretrained(folder)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=list(lora.targets), task_type="CAUSAL_LM")
    expected = dict(get_peft_model(whole, config).named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert {name for name in found if found[name].requires_grad} == {n for n in found if "lora_" in n}


def write_gguf(model: Any, file: Path) -> None:
    """``model`` in the format of llama.cpp, in float32."""
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_context_length(1024)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_key_length(SIZES["head_dim"])
    writer.add_value_length(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(SIZES["sliding_window"])
    writer.add_vocab_size(SIZES["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, SIZES["num_hidden_layers"])
    for name, parameter in model.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight",))
        # There, the gain of a norm is what it multiplies by; here, what it adds to 1.
        writer.add_tensor(found, parameter.detach().numpy() + ("norm" in name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_in_gguf_are_read_whole_and_it_is_said(
    folder: Path, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = Gemma3ForCausalLM.from_pretrained(folder)
    write_gguf(original, tmp_path / "tiny.gguf")
    with caplog.at_level(logging.INFO, logger="gemfit"):
        model, weights = open_model(recipe_of(tmp_path, gguf_file="tiny.gguf"), tokenizer)
    assert weights is None
    assert caplog.text.count("is in GGUF: every rank reads it whole") == 1
    found, expected = model.state_dict(), original.state_dict()
    # Adding 1 to a small gain and taking it away again rounds.
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_damaged_gguf_is_named_and_a_lack_of_memory_is_not_called_damage(
    folder: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(Gemma3ForCausalLM.from_pretrained(folder), file)
    whole, recipe = file.read_bytes(), recipe_of(tmp_path, gguf_file=file.name)
    for damaged in (whole[:100], whole[: len(whole) // 2], whole[:8] + b"\xff" * 8 + whole[16:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"tiny\.gguf"):
            open_model(recipe, tokenizer)

    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    file.write_bytes(whole)
    monkeypatch.setattr(Gemma3ForCausalLM, "from_pretrained", fails)
    with pytest.raises(RuntimeError, match="can't allocate"):
        open_model(recipe, tokenizer)


@pytest.mark.dist
@pytest.mark.slow
def test_a_resumed_full_fine_tune_does_not_read_the_base_again(
    folder: Path, fresh_run: Launch, launch: Launch, tokenizer: Any, tmp_path: Path
) -> None:
    model = {"model__scratch": "null", "model__dtype": "float32", "length__max_steps": 4}
    straight = launch("fsdp2", 2, **model, model__id=folder)
    mine = tmp_path / "base"
    mine.mkdir()
    for file in folder.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    resumed = fresh_run("fsdp2", 2, **model, model__id=mine)
    resumed.train(stop_at=2)
    assert resumed.verdict is not None, resumed.log()
    assert resumed.verdict.outcome == AttemptOutcome.STOPPED
    for file in mine.glob("*.safetensors"):  # names and shapes stay, values do not
        content = file.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        file.write_bytes(content[:header] + b"\xff" * (len(content) - header))
    assert resumed.train().returncode == 0, resumed.log(2)
    assert resumed.losses == straight.losses


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_of_a_strategy_that_shards_holds_its_own_part(measure: Callable[..., Any]) -> None:
    sizes = ("--layers", "6", "--vocabulary", "8192")
    strategies = ("--strategy", "fsdp2", "--strategy", "zero3")
    found = measure("tests/memory/loading.py", *strategies, "--ranks", "2", *sizes, timeout_seconds=500)
    assert len(found["rows"]) == 2
    whole = 4 * found["parameters"]
    mapped = 2 * found["parameters"]  # files of bfloat16, of which the kernel may map every page
    for row in found["rows"]:
        # DeepSpeed's own copies of its part come on top later; FSDP2 has its shards and nothing else.
        when = {"fsdp2": "loading", "zero3": "placed"}[row["strategy"]]
        bound = whole / 2 + mapped + NOISE
        assert row["sharded"][when] <= bound, row
        assert row["whole"][when] > max(bound, whole), "the bound would hold for a whole model too"
        assert row["sharded"]["loading"] <= row["whole"]["loading"] - whole / 2
        assert row["losses_equal"]


NOISE = 96 * 2**20
"""Bytes besides shards and mapped files: a chunk that is converted, late imports, kept memory."""


def test_a_damaged_file_of_weights_is_named(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    file = next(copied.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:9])
    with pytest.raises(UserError, match=f"{file.name}: is damaged or not in safetensors"):
        open_model(recipe_of(copied), tokenizer)
