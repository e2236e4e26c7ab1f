"""The self-test at start-up passes a sound process, and names what is wrong with another."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM

from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import Engine
from gemfit.train.checks import selftest
from gemfit.train.data.probe_rows import random_ids
from gemfit.train.model.build import load_model
from gemfit.train.model.packed_lm import PackedCausalLM
from gemfit.train.sequence_group import ALONE
from train.test_attention import without_backward


class Seeing(PackedCausalLM, Gemma3ForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """Documents see each other: an attention mask of ones hides where they begin."""

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        targets: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        mask = torch.ones_like(input_ids)
        return super().forward(input_ids, position_ids, targets, places, attention_mask=mask, **kwargs)


@pytest.fixture
def process(make_plan: Callable[..., Plan]) -> Any:
    """What the self-test looks at, on one rank."""
    plan = make_plan("single", 1)
    model = load_model(plan.recipe, train_tokenizer(["some text to learn from"] * 4, 300))

    def compute_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        step_tokens = inputs.pop("step_tokens")
        loss: torch.Tensor = model(**inputs).loss_sum / step_tokens
        return loss

    return SimpleNamespace(
        model_wrapped=model,
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        args=SimpleNamespace(device=torch.device("cpu")),
        plan=plan,
        pad_id=0,
        sequence=ALONE,
        compute_loss=compute_loss,
        take_step_loss=lambda: 0.0,
    )


def test_a_sound_process_passes_and_is_left_as_it_was(process: Any) -> None:
    model = process.model_wrapped.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    selftest.check(process)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_documents_that_see_each_other_are_found(process: Any) -> None:
    process.model_wrapped.__class__ = Seeing
    with pytest.raises(UserError, match=r"see each other in eval mode under attention sdpa: .* to eager"):
        selftest.check(process)


def test_a_loss_that_is_scaled_once_more_is_found(process: Any) -> None:
    plain = process.compute_loss
    process.compute_loss = lambda model, inputs: plain(model, inputs) / 2
    with pytest.raises(RuntimeError, match=r"loss of a step is 0\.5000\d\d times the mean"):
        selftest.check(process)


def test_untied_embeddings_are_found(process: Any) -> None:
    head = process.model_wrapped.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    with pytest.raises(RuntimeError, match="tied in the configuration, not in memory"):
        selftest.check(process)


def test_another_engine_than_planned_is_found(process: Any, make_plan: Callable[..., Plan]) -> None:
    process.plan = make_plan("fsdp2", 1)
    with pytest.raises(RuntimeError, match=r"the engine is .*'plain'.* the strategy asks for .*'FSDPModule'"):
        selftest.check(process)


def test_rotary_frequencies_in_bfloat16_are_found(process: Any) -> None:
    process.model_wrapped.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="rotary positions need float32"):
        selftest.check(process)


def test_a_buffer_that_no_file_holds_and_that_is_wrong_is_found(process: Any) -> None:
    embedding = process.model_wrapped.get_input_embeddings()
    embedding.embed_scale = embedding.embed_scale + 0.1
    with pytest.raises(RuntimeError, match=r"buffer model\.embed_tokens\.embed_scale is not what"):
        selftest.check(process)


def test_a_weight_that_was_never_read_is_found(process: Any) -> None:
    torch.nn.init.constant_(process.model_wrapped.model.layers[2].mlp.up_proj.weight, torch.nan)
    with pytest.raises(RuntimeError, match=r"logits are not finite in eval mode .* a weight was not read"):
        selftest.check(process)


def test_another_attention_than_planned_is_found(process: Any) -> None:
    process.model_wrapped.config._attn_implementation = "eager"
    with pytest.raises(UserError, match=r"attention is eager, but the plan says sdpa"):
        selftest.check(process)


def test_an_attention_without_a_sound_backward_pass_is_found(process: Any) -> None:
    process.model_wrapped.model.layers[3].self_attn.register_forward_hook(without_backward)
    with pytest.raises(UserError, match=r"gradients are not finite under attention sdpa: .* to eager"):
        selftest.check(process)


def test_the_engine_of_a_plain_model_is_called_plain(process: Any) -> None:
    found = selftest.engine_in_use(process.model_wrapped, process.model_wrapped)
    assert found == Engine(model_class="plain")


def test_random_ids_are_equal_in_every_process(process: Any) -> None:
    first, again = (random_ids(process, 5) for _ in range(2))
    assert np.array_equal(first, again)
