"""``attention: auto`` takes a faster attention only where every rank finds its kernel right."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.attention import varlen

from forked_ranks_environment import VARLEN_KERNEL
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import HardwareRecord
from gemfit.schemas.plan import Plan
from gemfit.train.model.attention_probe import AttentionCase, attention_cases, fault_of_varlen, take_proven
from gemfit_launch.runs.metrics_tail import Tail
from train.tiny_gemma import tiny_gemma
from train.varlen_reference import in_float32

if TYPE_CHECKING:
    from rank_server import RankServer
    from train.conftest import Attempts

CPU = torch.device("cpu")


def one_more(*given: Any, window_size: tuple[int, int], **options: Any) -> torch.Tensor:
    """A window that is longer by one token."""
    return in_float32(*given, window_size=(window_size[0] + (window_size[0] > 0), 0), **options)


def one_document(q: Any, k: Any, v: Any, ends: Any, *given: Any, **options: Any) -> torch.Tensor:
    whole = ends[[0, -1]]
    return in_float32(q, k, v, whole, whole, len(q), len(q), **options)


def one_too_late(q: Any, k: Any, v: Any, ends: Any, *given: Any, **options: Any) -> torch.Tensor:
    """The first border of documents stands one token later."""
    moved = ends + (torch.arange(len(ends)) == 1)
    return in_float32(q, k, v, moved, moved, len(q), len(q), **options)


def of_other_heads(q: Any, k: Any, v: Any, *given: Any, **options: Any) -> torch.Tensor:
    return in_float32(q, k.flip(1), v.flip(1), *given, **options)


def unscaled(*given: Any, scale: float, **options: Any) -> torch.Tensor:
    return in_float32(*given, scale=1.0, **options)


def without_gradient(*given: Any, **options: Any) -> torch.Tensor:
    return in_float32(*given, **options).detach()


def with_wrong_gradient(q: Any, k: Any, v: Any, *given: Any, **options: Any) -> torch.Tensor:
    return in_float32(q, k.detach() + 0.9 * (k - k.detach()), v, *given, **options)


def with_nan_gradient(*given: Any, **options: Any) -> torch.Tensor:
    output: Any = in_float32(*given, **options)
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient * torch.nan)
    found: torch.Tensor = output
    return found


def refused(*given: Any, **options: Any) -> torch.Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from mha_fwd")


FAULTS: dict[Callable[..., torch.Tensor], str] = {
    one_more: r"token \d+ sees token \d+ at heads of 16 numbers in windows of 16, where .* end at 7, 63, 93",
    one_document: r"token 7 sees token 0 at",
    one_too_late: r"token 7 sees token 0 at",
    of_other_heads: r"the output is [\d.]+ off at heads of 16 numbers",
    unscaled: r"the output is [\d.]+ off",
    without_gradient: "does not require grad",
    with_wrong_gradient: r"the gradient of keys is 0\.1 off",
    with_nan_gradient: "the gradient of queries is nan off",
    refused: r"FlashAttention only supports Ampere GPUs or newer\.$",
}


def test_a_right_kernel_passes_on_every_kind_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[int, int, tuple[int, int]]] = set()

    def kernel(q: Any, k: Any, *given: Any, **options: Any) -> torch.Tensor:
        asked.add((q.shape[-1], q.shape[1] // k.shape[1], options["window_size"]))
        return in_float32(q, k, *given, **options)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    model = tiny_gemma("sdpa", num_attention_heads=4, num_key_value_heads=2)
    assert fault_of_varlen(model, CPU) is None
    assert asked == {(16, 2, (15, 0)), (16, 2, (-1, 0))}


@pytest.mark.parametrize("kernel", FAULTS, ids=lambda kernel: kernel.__name__)
def test_a_wrong_kernel_is_told_with_what_is_wrong(
    kernel: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    found = fault_of_varlen(tiny_gemma("sdpa", num_attention_heads=4, num_key_value_heads=2), CPU)
    assert found is not None
    assert re.search(FAULTS[kernel], found), found


def test_one_token_of_a_long_window_is_not_lost_in_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", one_more)
    found = fault_of_varlen(tiny_gemma("sdpa", sliding_window=512), CPU)
    assert "token 512 sees token 0" in str(found) or "token 519 sees token 7" in str(found)


def test_a_torch_without_the_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(varlen, "varlen_attn")
    assert "varlen_attn" in str(fault_of_varlen(tiny_gemma("sdpa"), CPU))


def test_scores_that_a_model_caps_are_beyond_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", in_float32)
    model = tiny_gemma("sdpa")
    for module in model.modules():
        if hasattr(module, "num_key_value_groups"):
            module.attn_logit_softcapping = 50.0
    assert (
        fault_of_varlen(model, CPU)
        == "the model caps its scores or drops some of them, which varlen does not"
    )


def test_long_windows_are_probed_at_a_length_that_fits() -> None:
    model = tiny_gemma("sdpa", sliding_window=4096)
    assert {case.window for case in attention_cases(model)} == {None, 1024}
    assert all(isinstance(case, AttentionCase) and case.width == 16 for case in attention_cases(model))


def test_a_plan_that_leaves_nothing_open_is_not_probed(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("single", 1)
    assert take_proven(plan, None, CPU) is plan


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("without_kernel", "taken", "because"),
    [
        ("none", "varlen", "its kernel passed a probe on each of 2 ranks"),
        ("1", "sdpa", "varlen cannot be used on rank 1: "),
    ],
)
def test_all_ranks_take_what_is_right_on_all_of_them(
    without_kernel: str,
    taken: str,
    because: str,
    make_plan: Callable[..., Plan],
    rank_server: RankServer,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from train.conftest import Attempts  # noqa: PLC0415 - it is loaded by pytest under this name

    monkeypatch.setenv(VARLEN_KERNEL, without_kernel)
    plan = make_plan("ddp", 2, model__dtype="bfloat16", length__max_steps=2)
    open_plan = plan.model_copy(update={"attention_if_proven": "varlen"})
    run: Attempts = Attempts(RunDir.create(tmp_path / "run", open_plan), rank_server)
    assert run.train().returncode == 0, run.log()
    assert run.log().count(f"attention {taken}: {because}") == 1
    (record,) = [r for r in Tail(run.run.metrics_file).read() if isinstance(r, HardwareRecord)]
    assert record.attention == taken
    assert record.attention_because.startswith(because)
    assert run.run.plan() == open_plan  # what is evaluated later takes what runs anywhere
