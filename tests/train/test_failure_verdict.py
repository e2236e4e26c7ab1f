"""Errors that every attempt would meet leave a verdict with the way out; others are restarted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.exc import FailOnRecompileLimitHit

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.train import __main__ as entry
from gemfit.train import main as training
from gemfit.train.attempt_verdict import write_failure
from gemfit.train.checks.failure_verdict import judge_failure
from gemfit.train.loop.finite import check_finite
from gemfit.train.trainer_view import SelfTestError

FATAL, CRASHED = AttemptOutcome.FATAL, AttemptOutcome.CRASHED
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the docs")
NO_HOST_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
DUPLICATE = dist.DistBackendError(
    "NCCL error in: init.cpp:1, ncclInvalidUsage\nDuplicate GPU detected : rank 1 and rank 0"
)
LOST_PEER = dist.DistBackendError(
    "NCCL error in: net.cc:2, remote process exited or there was a network error"
)


def not_finite() -> Exception:
    with pytest.raises(FloatingPointError) as raised:
        check_finite(float("nan"), "the loss of step 1")
    return raised.value


@pytest.fixture
def run(tmp_path: Any, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run in its first attempt."""
    monkeypatch.setattr(training, "FIRST_RANK_SECONDS", 0.0)
    monkeypatch.setenv("GEMFIT_ATTEMPT", "1")
    run = RunDir.create(tmp_path / "run", make_plan("single", 1))
    run.begin_attempt()
    return run


def fail_with(
    error: Exception, run: RunDir, monkeypatch: pytest.MonkeyPatch, *, steps: int = 0, attention: str = "sdpa"
) -> ExitCode:
    """The exit code of a rank that meets ``error`` in its training, after ``steps`` steps."""

    def train() -> None:
        raise error

    plan = run.plan()
    model = plan.recipe.model.model_copy(update={"attention": attention})
    changed = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"model": model})})
    trainer = SimpleNamespace(
        train=train,
        plan=changed,
        saver=nullcontext(),
        state=SimpleNamespace(global_step=steps),
        train_dataset=SimpleNamespace(start_step=0),
    )
    monkeypatch.setattr(RunDir, "plan", lambda self: changed)
    monkeypatch.setattr(training, "_make_trainer", lambda *given: trainer)
    monkeypatch.setattr(sys, "argv", ["gemfit.train", str(run.root)])
    return entry.main()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SelfTestError("self-test: a buffer is wrong"), "self-test: a buffer is wrong"),
        (not_finite(), "the loss of step 1 is nan.*--allow-changed optim.learning_rate"),
        (
            ImportError("undefined symbol: _ZN3c10"),
            r"undefined symbol.*set model.attention to sdpa, or install",
        ),
        (
            OUT_OF_MEMORY,
            "before the first step was done: CUDA out of memory.*max_per_device_batch_size lower",
        ),
        (
            NO_HOST_MEMORY,
            "before the first step was done: .*can't allocate memory.*max_per_device",
        ),
        (MemoryError(), "before the first step was done: MemoryError; set batch.max_per_device_batch_size"),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "not built for this GPU"),
        (DUPLICATE, "the ranks cannot communicate: .*ncclInvalidUsage; set NCCL_DEBUG=INFO"),
        (FailOnRecompileLimitHit("recompile_limit reached"), "set model.compile to false"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_every_attempt_is_fatal(
    error: Exception, reason: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fail_with(error, run, monkeypatch, attention="flash_attention_2") is ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert verdict.outcome is FATAL
    assert re.search(reason, verdict.reason)


def test_torch_says_of_host_memory_what_is_looked_for() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    found = judge_failure(raised.value, ModelRecipe(scratch=ScratchModel()), stepped=False)
    assert found is not None
    assert found.outcome is FATAL


@pytest.mark.parametrize(
    "words",
    [
        "FlashAttention only supports Ampere GPUs or newer.",
        "USE_FLASH_ATTENTION was not enabled for build.",
        "FlashAttention backward for head dim > 192 requires A100/A800 or H100/H800",
    ],
)
def test_varlen_on_a_gpu_without_its_kernel_is_fatal_with_the_way_out(words: str) -> None:
    model = ModelRecipe(scratch=ScratchModel(), attention="varlen")
    found = judge_failure(RuntimeError(words), model, stepped=False)
    assert found is not None
    assert found.outcome is FATAL
    assert found.reason == f"model.attention: varlen cannot be used: {words}; set model.attention to sdpa"
    assert judge_failure(RuntimeError(words), model, stepped=True) is None


@pytest.mark.parametrize(
    "error", [OUT_OF_MEMORY, NO_HOST_MEMORY, LOST_PEER, RuntimeError("Connection closed by peer")]
)
def test_an_error_after_a_step_leaves_the_restart_to_slurm(
    error: Exception, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fail_with(error, run, monkeypatch, steps=1) is ExitCode.FAILED
    assert run.verdict() is None


def test_ranks_that_cannot_meet_crash_with_a_reason(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(LOST_PEER, run, monkeypatch)
    verdict = run.verdict()
    assert verdict is not None
    assert verdict.outcome is CRASHED
    assert "NCCL_SOCKET_IFNAME" in verdict.reason


def test_an_error_of_any_rank_is_stated(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert fail_with(UserError("no such file here"), run, monkeypatch) is ExitCode.USER_ERROR
    verdict = run.verdict()
    assert verdict is not None
    assert (verdict.outcome, verdict.reason) == (FATAL, "no such file here")
    assert "no such file here" in caplog.text
    caplog.clear()
    fail_with(UserError("no such file here"), run, monkeypatch)
    assert "no such file here" not in caplog.text


def test_modules_that_cannot_be_imported_are_fatal(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemfit.train.main", None)
    monkeypatch.setattr(sys, "argv", ["gemfit.train", str(run.root)])
    assert entry.main() is ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert verdict.outcome is FATAL
    assert "gemfit doctor" in verdict.reason


def test_a_verdict_stays_and_a_newer_attempt_is_left_alone(run: RunDir) -> None:
    assert write_failure(run, CRASHED, "a peer is gone")
    assert not write_failure(run, CRASHED, "another peer is gone")
    assert write_failure(run, FATAL, "memory ran out")
    run.write_verdict(Verdict(outcome=AttemptOutcome.COMPLETED, attempt=1, step=6))
    assert not write_failure(run, FATAL, "an error after the last step")
    run.begin_attempt()
    assert not write_failure(run, FATAL, "an error of the first attempt")
    assert run.verdict() is None


def test_a_plain_bug_is_not_judged(run: RunDir) -> None:
    assert judge_failure(KeyError("bug"), run.plan().recipe.model, stepped=False) is None
