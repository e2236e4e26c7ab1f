"""Fused modules take the place of plain ones only where they compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM, apply_rotary_pos_emb

from gemfit.errors import UserError
from gemfit.train.model.liger import Liger, load_liger, use_liger

CPU = torch.device("cpu")
IDS = torch.arange(3, 43)[None]


def norm(x: Any, weight: Any, eps: float, offset: float, *rest: Any) -> torch.Tensor:
    """What Liger's norm computes, in plain words."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * (offset + weight.float())
    normed: torch.Tensor = scaled.to(x.dtype)
    return normed


def geglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def rotate(q: Any, k: Any, cos: Any, sin: Any) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = apply_rotary_pos_emb(q, k, cos, sin)
    return found


SOUND = Liger(norm, geglu, rotate)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=16,
    )
    return Gemma3ForCausalLM(config)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def with_functions(monkeypatch: pytest.MonkeyPatch, liger: Liger) -> None:
    monkeypatch.setattr("gemfit.train.model.liger.load_liger", lambda: liger)


def test_the_fused_model_gives_the_logits_of_the_plain_one(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    with_functions(monkeypatch, Liger(*(counted(f.__name__, f) for f in (norm, geglu, rotate))))
    before, names = logits(model), list(model.state_dict())
    use_liger(model, CPU, torch.float32)
    calls.clear()
    assert torch.allclose(logits(model), before, atol=1e-6)
    assert {name: calls.count(name) for name in ("norm", "geglu", "rotate")} == {
        "norm": 6 * 6 + 1,
        "geglu": 6,
        "rotate": 6,
    }
    assert list(model.state_dict()) == names


def test_other_models_of_the_process_stay_plain(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_functions(monkeypatch, SOUND)
    before = modeling_gemma3.apply_rotary_pos_emb
    use_liger(model, CPU, torch.float32)
    assert modeling_gemma3.apply_rotary_pos_emb is before
    other = Gemma3ForCausalLM(model.config)
    assert "forward" not in vars(other.model.layers[0].mlp)


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (Liger(lambda x, w, e, o, *r: norm(x, w, e, 0.0), geglu, rotate), "norm of width 16"),
        (Liger(norm, lambda gate, up: torch.relu(gate) * up, rotate), "GeGLU of width 64"),
        (
            Liger(norm, geglu, lambda q, k, cos, sin: rotate(q, k, cos, -sin)),
            "rotary positions of width 16",
        ),
    ],
    ids=["norm", "geglu", "rotary"],
)
def test_a_module_that_computes_something_else_is_refused_by_name(
    broken: Liger, name: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_functions(monkeypatch, broken)
    with pytest.raises(UserError, match=rf"liger's {name} differs from the plain one by"):
        use_liger(model, CPU, torch.float32)
    assert "forward" not in vars(model.model.layers[0].mlp)


def test_a_wrong_gradient_is_found_where_the_output_is_right(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * 1.01

    wrong: Any = Wrong.apply
    with_functions(monkeypatch, Liger(norm, lambda gate, up: geglu(wrong(gate), up), rotate))
    with pytest.raises(UserError, match=r"liger's GeGLU of width 64 differs from the plain one by 0\.0\d"):
        use_liger(model, CPU, torch.float32)


def test_a_module_that_gives_no_number_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_functions(monkeypatch, Liger(norm, lambda gate, up: gate * up * torch.nan, rotate))
    with pytest.raises(UserError, match="GeGLU of width 64 differs from the plain one by nan"):
        use_liger(model, CPU, torch.float32)


def test_another_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_functions(monkeypatch, SOUND)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(UserError, match="supported for Gemma 3 only, and this is LlamaForCausalLM"):
        use_liger(LlamaForCausalLM(config), CPU, torch.float32)


def test_another_activation_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_functions(monkeypatch, SOUND)
    model.config.hidden_activation = "silu"
    with pytest.raises(UserError, match="and this model has silu"):
        use_liger(model, CPU, torch.float32)


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger-kernel is installed here")
def test_a_missing_package_is_reported_with_its_fix() -> None:
    with pytest.raises(UserError, match=r"liger cannot be imported .* pip install liger-kernel"):
        load_liger()


INTERPRETED = """
import numpy, sys, torch, triton.language as tl
from triton.runtime import interpreter
from liger_kernel.ops import geglu, rms_norm

# What Triton's interpreter lacks: numbers as arguments, and two functions of CUDA's libdevice.
plain = interpreter._implicit_cvt
def convert(value):
    if isinstance(value, float):
        handle = interpreter.TensorHandle(numpy.array([value], numpy.float32), tl.float32)
        return tl.tensor(handle, tl.float32)
    return plain(value)
interpreter._implicit_cvt = convert
geglu.tanh = lambda x: 2 * tl.sigmoid(2 * x) - 1
rms_norm.rsqrt = lambda x: 1 / tl.sqrt(x)

from train.test_kernels import CPU, model
from gemfit.train.model.liger import _replaceable, compare, load_liger
made = model.__wrapped__() if hasattr(model, "__wrapped__") else model._get_wrapped_function()()
for name, found in compare(list(_replaceable(made)), load_liger(), CPU, torch.float32):
    sys.stdout.write(f"{name}: {found:.3g}\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("liger_kernel") is None or find_spec("triton") is None,
    reason="liger-kernel and triton are not installed",
)
def test_ligers_own_kernels_agree_with_the_plain_modules_when_they_are_interpreted() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "rotary positions of width 16",
        "norm of width 16",
        "GeGLU of width 64",
        "norm of width 32",
    ]
