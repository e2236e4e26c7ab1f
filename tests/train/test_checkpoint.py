"""Saving and resuming with real engines: two gloo ranks, all strategies in one launch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gemfit.export.weights import weights_of_checkpoint
from gemfit.rundir import RunDir

WORKER = Path(__file__).with_name("checkpoint_worker.py")
ENGINES = {
    "ddp": "DistributedDataParallel",
    "fsdp2": "FSDPGemma3ForCausalLM",
    "zero1": "DeepSpeedEngine",
    "zero2": "DeepSpeedEngine",
    "zero3": "DeepSpeedEngine",
    "zero2+offload": "DeepSpeedEngine",
    "zero3+offload": "DeepSpeedEngine",
}
ACROSS = ("zero3 to fsdp2", "fsdp2 to zero1", "zero2 to ddp", "ddp to zero3")
ONE_CHECKPOINT_KIB = 1100  # one of the worker's is reckoned with 980 KiB and takes some 650

pytestmark = pytest.mark.dist

Ranks = list[dict[str, Any]]
"""What each of the two ranks saw."""


def launch(work: Path, disk: str, *options: str) -> Ranks:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    argv = [*torchrun, str(WORKER), str(work), disk, *options]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((work / f"rank-{rank}.json").read_text()) for rank in range(2)]


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """A file system with room for one checkpoint; ``-`` where this user may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ONE_CHECKPOINT_KIB}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        yield "-"
        return
    try:
        yield str(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("float32")


@pytest.fixture(scope="module")
def ranks(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    with small_disk(tmp_path_factory.mktemp("disk")) as disk:
        return launch(work, disk)


@pytest.fixture(scope="module")
def bf16_ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return launch(tmp_path_factory.mktemp("bfloat16"), "-", "--bf16")


def assert_resumed_bit_for_bit(seen: dict[str, Any], engine: str) -> None:
    assert seen["engine"] == engine
    assert seen["step"] == 3
    assert seen["entries"] > 0
    assert seen["moments_move"], "moments of zero would be restored by doing nothing"
    assert seen["differed_before"], "the fresh engine was the saved one already"
    assert seen["loaded_equal"]
    assert seen["resumed_losses"] == seen["losses"]
    assert seen["end_equal"]
    assert seen["learning_rates"][0] == seen["learning_rates"][1]


@pytest.mark.parametrize("kind", ENGINES)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(ranks: Ranks, kind: str) -> None:
    for seen in ranks:
        assert_resumed_bit_for_bit(seen[kind], ENGINES[kind])


@pytest.mark.parametrize("kind", ENGINES)
def test_float32_masters_survive_a_bfloat16_run(bf16_ranks: Ranks, kind: str) -> None:
    for seen in bf16_ranks:
        assert_resumed_bit_for_bit(seen[kind], ENGINES[kind])


@pytest.mark.parametrize("pair", ACROSS)
def test_a_checkpoint_of_one_strategy_resumes_under_another(ranks: Ranks, pair: str) -> None:
    for seen in ranks:
        assert seen["across"][pair] == pytest.approx(seen["ddp"]["losses"], rel=1e-5)


@pytest.mark.parametrize("kind", ENGINES)
def test_one_process_reads_the_weights_of_every_strategy(ranks: Ranks, work: Path, kind: str) -> None:
    assert ranks[0][kind]["step"] == 3
    of_ddp, of_kind = (weights_of_checkpoint(RunDir(work / k).checkpoint(3)) for k in ("ddp", kind))
    assert of_ddp.shapes == of_kind.shapes
    assert "model.embed_tokens.weight" in of_ddp.shapes
    names = list(of_ddp.shapes)
    torch.testing.assert_close(of_kind.fetch(names), of_ddp.fetch(names), rtol=1e-4, atol=1e-5)


def test_before_the_first_checkpoint_there_is_nothing_to_resume(ranks: Ranks) -> None:
    assert [seen["refusals"]["empty"] for seen in ranks] == [None, None]


def test_a_checkpoint_of_another_training_is_refused_on_every_rank(ranks: Ranks) -> None:
    for seen in ranks:
        message = seen["refusals"]["plan"]
        assert message.startswith("UserError")
        assert "step-00000001" in message
        assert "seed: was 1, is 2" in message
        assert "new run" in message


def test_an_attempt_that_was_taken_over_does_not_write(ranks: Ranks) -> None:
    for seen in ranks:
        assert seen["refusals"]["superseded"].startswith("SupersededError")
        assert "attempt 2" in seen["refusals"]["superseded"]


@pytest.mark.parametrize("noticed", ["looked", "wrote"])
def test_a_full_disk_is_named_and_leaves_the_last_checkpoint(ranks: Ranks, noticed: str) -> None:
    if "full_disk" not in ranks[0]["refusals"]:
        pytest.skip("only root may mount the small disk that this test fills")
    for seen in ranks:
        full = seen["refusals"]["full_disk"]
        assert full[noticed].startswith("UserError")
        assert "the disk is full" in full[noticed]
        assert "bytes" in full[noticed]
        assert full["left"] == ["step-00000001"]
        assert full["resumed_step"] == 1
