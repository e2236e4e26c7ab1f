"""Each trap that a recipe can fall into is found when it is planted, and a sound recipe has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, Gemma4ForCausalLM, Gemma4TextConfig

from gemfit.core.marked_answer import find_answers
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.check import CheckResult, ok
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.train.checks import doctor, recipe_checks
from gemfit.train.checks.recipe_checks import (
    check_begin,
    check_mask,
    check_model,
    check_recipe,
    check_stop,
    shrunk,
    small_model,
)
from gemfit.train.model import liger
from gemfit.train.model.build import prepare_for_training
from gemfit.train.model.packed_lm import packed_class
from train.test_attention import without_backward
from train.test_selftest import Seeing

CPU = torch.device("cpu")
SCRATCH = ScratchModel(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_attention_heads=2, head_dim=16, sliding_window=8
)
E2B = (["sliding_attention"] * 4 + ["full_attention"]) * 7
MESSAGES = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]


def recipe(**settings: Any) -> Recipe:
    defaults: dict[str, Any] = {"scratch": SCRATCH, "dtype": "float32", "attention": "sdpa"}
    return Recipe(model=ModelRecipe(**(defaults | settings)), data=DataRecipe(loss_on="assistant"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


def failed(checks: list[CheckResult]) -> dict[str, CheckResult]:
    return {check.name: check for check in checks if check.state == "error"}


def looked_at(model: Any, tokenizer: Any, made: Recipe | None = None) -> dict[str, CheckResult]:
    return failed(list(check_model(made or recipe(), tokenizer, model, CPU)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_recipe_falls_into_no_trap(dtype: str) -> None:
    checks = list(check_recipe(recipe(dtype=dtype), CPU, full=False))
    assert failed(checks) == {}
    assert [check.name for check in checks] == [
        *("one BOS", "stop token", "loss mask", "model", "attention", "weights and buffers", "no cache"),
        *("isolation, eval", "isolation, train", "loss scale", "gradients"),
    ]


def test_the_data_of_the_recipe_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "conversations.jsonl"
    path.write_text(json.dumps({"messages": MESSAGES}) + "\n" + json.dumps({"messages": []}) + "\n")
    made = recipe().model_copy(update={"data": DataRecipe(source=str(path))})
    (check,) = check_recipe(made, CPU, full=False)
    assert (check.state, check.name) == ("error", "data and tokenizer")
    assert f"{path}:2" in check.found


def test_documents_with_two_or_no_bos_are_found() -> None:
    sound, twice, none = np.array([2, 9, 1]), np.array([2, 2, 9]), np.array([9, 9])
    assert check_begin([sound], 2).state == "ok"
    assert check_begin([sound, twice], 2).found == (
        "1 of 2 conversations do not begin with one BOS (the first has 2)"
    )
    assert check_begin([none], 2).state == "error"
    assert check_begin([none], None).state == "ok"


def test_a_stop_token_that_is_never_trained_is_found() -> None:
    assert check_stop([np.array([-100, 7, 1])], [1]).state == "ok"
    assert check_stop([np.array([-100, 7, -100])], [1]).state == "error"
    assert check_stop([np.array([7, 1]), np.array([7, 7])], [1]).state == "warning"


def test_an_empty_mask_is_found() -> None:
    assert check_mask([np.array([-100, 7])]).found == "50% of the tokens are trained"
    assert check_mask([np.array([-100, 7]), np.array([-100, -100])]).state == "error"


def test_documents_that_see_each_other_are_found(tokenizer: Any) -> None:
    model = small_model(recipe(), tokenizer)
    model.__class__ = Seeing
    assert {"isolation, eval", "isolation, train"} <= looked_at(model, tokenizer).keys()


def test_a_backward_pass_without_numbers_is_found(tokenizer: Any) -> None:
    model = small_model(recipe(), tokenizer)
    model.model.layers[2].self_attn.register_forward_hook(without_backward)
    found = looked_at(model, tokenizer)
    assert found.keys() == {"gradients"}
    assert found["gradients"].do == "set model.attention to eager"


def test_untied_weights_and_wrong_buffers_are_found(tokenizer: Any) -> None:
    untied = small_model(recipe(), tokenizer)
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    assert "weights and buffers" in looked_at(untied, tokenizer)
    scaled = small_model(recipe(), tokenizer)
    scaled.get_input_embeddings().embed_scale += 0.1
    assert "embed_scale" in looked_at(scaled, tokenizer)["weights and buffers"].found


def test_a_cache_is_found(tokenizer: Any) -> None:
    model = small_model(recipe(), tokenizer)
    model.config.use_cache = True
    assert "no cache" in looked_at(model, tokenizer)


def test_another_attention_than_asked_for_is_found(tokenizer: Any) -> None:
    model = small_model(recipe(), tokenizer)
    model.config._attn_implementation = "eager"
    assert looked_at(model, tokenizer).keys() == {"attention"}


def test_a_loss_of_another_scale_is_found(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(recipe(), tokenizer)
    plain = type(model)._slice_loss
    monkeypatch.setattr(type(model), "_slice_sums", lambda self, h, t: (2 * plain(self, h, t), t.sum()))
    assert "loss scale" in looked_at(model, tokenizer)


def test_kernels_that_are_refused_are_found(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("model.kernels: liger cannot be imported; pip install liger-kernel, or set none")

    monkeypatch.setattr(liger, "load_liger", absent)
    made = recipe(kernels="liger")
    found = looked_at(small_model(made, tokenizer), tokenizer, made)
    assert found["liger kernels"].do == "pip install liger-kernel, or set none"


def test_a_missing_model_is_reported(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_checks, "_tokenizer", lambda recipe, conversations: tokenizer)
    made = recipe(scratch=None, id=str(tmp_path))
    assert failed(list(check_recipe(made, CPU, full=False))).keys() == {"model"}


def test_a_small_model_keeps_what_its_traps_depend_on() -> None:
    config = Gemma3TextConfig(num_hidden_layers=26, hidden_size=1152, head_dim=256, sliding_window=512)
    small = shrunk(config)
    assert (small.num_hidden_layers, small.hidden_size) == (6, 64)
    assert (small.head_dim, small.sliding_window, small.vocab_size) == (256, 512, config.vocab_size)
    assert small.layer_types == config.layer_types[:6]
    assert config.num_hidden_layers == 26


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ({"num_hidden_layers": 35, "num_kv_shared_layers": 20, "layer_types": E2B}, "ssssff"),
        ({"num_hidden_layers": 42, "num_kv_shared_layers": 18}, "ssssff"),
        ({"num_hidden_layers": 60, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0}, "sssssf"),
    ],
    ids=["E2B", "E4B", "31B"],
)
def test_a_small_gemma_4_has_layers_of_each_kind_and_is_sound(
    sizes: dict[str, Any], kinds: str, tokenizer: Any
) -> None:
    vocabularies = {"vocab_size": 300, "vocab_size_per_layer_input": 300, "final_logit_softcapping": 30.0}
    config = Gemma4TextConfig(**sizes, **vocabularies, num_global_key_value_heads=2, num_key_value_heads=4)
    small = shrunk(config)
    assert "".join(kind[0] for kind in small.layer_types) == kinds
    small._attn_implementation = "sdpa"
    model = prepare_for_training(packed_class(Gemma4ForCausalLM)(small), recipe(), tokenizer)
    attentions = [layer.self_attn for layer in model.model.layers]
    assert [one.head_dim for one in attentions] == [{"s": 256, "f": 512}[kind] for kind in kinds]
    assert attentions[-1].is_kv_shared_layer == ("num_kv_shared_layers" in sizes)
    assert looked_at(model, tokenizer) == {}


def test_gpus_that_torch_does_not_see_fail() -> None:
    assert doctor.judge_absent_gpu(None, 0).state == "ok"
    assert doctor.judge_absent_gpu(None, 8).found == "torch (built for CPUs only) sees none of 8"
    assert doctor.judge_absent_gpu("13.0", 8).state == "error"


def test_bfloat16_that_torch_emulates_is_not_supported() -> None:
    assert doctor.judge_bfloat16([(8, 0), (12, 1)]).state == "ok"
    found = doctor.judge_bfloat16([(9, 0), (7, 5)])
    assert (found.state, found.found) == ("error", "emulated by GPU 1: no bfloat16 units")


def test_a_gpu_in_use_is_reported() -> None:
    assert doctor.judge_memory("GPU 0", "H100", 79 * 10**9, 80 * 10**9).state == "ok"
    assert doctor.judge_memory("GPU 0", "H100", 20 * 10**9, 80 * 10**9).state == "warning"


def test_a_host_without_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RENDEZVOUS_SECONDS", 1.0)
    assert doctor.check_rendezvous("127.0.0.1").state == "ok"
    assert doctor.check_rendezvous("no-such-host.invalid").state == "error"


def test_rendezvous_is_checked_at_the_address_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(doctor, "local_address", lambda: "10.1.0.5")

    def record(host: str) -> CheckResult:
        asked.append(host)
        return ok("torch", "rendezvous", host)

    monkeypatch.setattr(doctor, "check_rendezvous", record)
    list(doctor.check_torch())
    assert asked == ["10.1.0.5"]


def test_a_host_name_at_loopback_is_shown_with_the_interface_that_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "interface_addresses", lambda: {"10.1.0.5": "ib0", "127.0.1.1": "lo"})
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    found = doctor.judge_host_name("n7", "127.0.1.1", "10.1.0.5").found
    assert found.startswith("n7 resolves to 127.0.1.1, and the route outside is ib0 (10.1.0.5)")
    assert doctor.judge_host_name("n7", "10.1.0.5", "10.1.0.5").found == "n7 resolves to 10.1.0.5"
    assert doctor.judge_host_name("n7", None, None).found == "n7 resolves to no address"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert "eth1" in doctor.judge_host_name("n7", "127.0.1.1", "10.1.0.5").found


@pytest.mark.slow
def test_the_module_answers_its_checks_as_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe().to_json())
    argv = [sys.executable, "-m", "gemfit.train.checks.doctor", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = [CheckResult.model_validate(check) for check in json.loads(find_answers(done.stdout)[-1])]
    assert {"rendezvous", "gradients"} <= {check.name for check in found if check.state == "ok"}
