"""What a run says of its own time and memory, and what of it can be relied on."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest
import torch

from gemfit.schemas.metrics import MemoryRecord
from gemfit.train.telemetry.peak_memory import CLEAR_REFS, RESET_PEAK, rank_memory, resident
from gemfit_launch.runs.metrics_tail import Tail

if TYPE_CHECKING:
    from train.conftest import Launch

MEBI = 2**20


def test_the_peak_is_that_since_the_training_began() -> None:
    with mmap.mmap(-1, 200 * MEBI) as before:
        before.write(bytes(200 * MEBI))
    CLEAR_REFS.write_text(RESET_PEAK)
    held = resident()
    with mmap.mmap(-1, 50 * MEBI) as while_training:
        while_training.write(bytes(50 * MEBI))  # twice: once as bytes
    grown = rank_memory(torch.device("cpu"), held).host - held
    assert 45 * MEBI <= grown < 150 * MEBI  # pages that were free count as held already


@pytest.mark.dist
@pytest.mark.slow
def test_every_rank_tells_its_peak_and_every_step_its_time(launch: Launch) -> None:
    attempts = launch("ddp", 2)
    [memory] = [r for r in Tail(attempts.run.metrics_file).read() if isinstance(r, MemoryRecord)]
    assert [rank.gpu for rank in memory.ranks] == [None, None]
    assert all(rank.host >= rank.held > 0 for rank in memory.ranks)
    for step in attempts.steps:
        assert step.seconds is not None
        assert step.tokens is not None
        assert step.tokens / step.seconds == pytest.approx(step.tokens_per_second)
        assert 0 < (step.trained_tokens or 0) <= step.tokens
    assert all((evaluation.seconds or 0) > 0 for evaluation in attempts.evaluations)
