"""Sequence parallelism: ranks that share their rows train what one rank trains, whatever the slices cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gemfit.schemas.strategy import Engine

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

pytestmark = pytest.mark.dist

SETTINGS = {"model__scratch__num_attention_heads": 4, "length__max_steps": 20}
DDP = Engine(model_class="DistributedDataParallel")


@pytest.fixture(scope="module")
def one_rank(launch: Launch) -> Attempts:
    return launch("single", 1, **SETTINGS)


def test_two_ranks_that_share_their_rows_have_the_losses_and_rows_of_one(
    launch: Launch, one_rank: Attempts
) -> None:
    shared = launch("ddp", 2, **SETTINGS, strategy__sequence_parallel=2)
    assert shared.engine == DDP
    assert shared.run.plan().batch.data_ranks == 1
    assert shared.losses == pytest.approx(one_rank.losses, rel=1e-5)
    assert [s.rows_digest for s in shared.steps] == [s.rows_digest for s in one_rank.steps]
    assert [s.tokens for s in shared.steps] == [s.tokens for s in one_rank.steps]
    assert [e.loss for e in shared.evaluations] == pytest.approx([e.loss for e in one_rank.evaluations])
    assert [e.tokens for e in shared.evaluations] == [e.tokens for e in one_rank.evaluations]
