"""Every strategy and every number of ranks trains the same model on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.strategy import Engine

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ZERO = {stage: Engine(model_class="DeepSpeedEngine", zero_stage=stage) for stage in (1, 2, 3)}
FSDP2 = Engine(model_class="FSDPModule", parameter_class="DTensor")
HSDP = FSDP2.model_copy(update={"replicas": 2})
DDP = Engine(model_class="DistributedDataParallel")

# strategy, ranks, settings, what must be found in the process
VARIANTS: list[tuple[str, int, dict[str, Any], Engine]] = [
    ("ddp", 2, {}, DDP),
    ("fsdp2", 2, {}, FSDP2),
    ("zero1", 2, {}, ZERO[1]),
    ("zero2", 2, {}, ZERO[2]),
    ("zero3", 2, {}, ZERO[3]),
    ("fsdp2", 2, {"offload": True}, FSDP2),
    ("zero2", 2, {"offload": True}, ZERO[2]),
    ("zero3", 2, {"offload": True}, ZERO[3]),
    # 16 rows on 3 ranks are 18 slots: two of them are empty rows.
    ("ddp", 3, {}, DDP),
    ("fsdp2", 4, {"model__activation_checkpointing": "true"}, FSDP2),
    # Copies average their gradients once per step, here after four backward passes.
    ("fsdp2", 4, {"strategy__replicate": 2, "batch__max_per_device_batch_size": 1}, HSDP),
    # 16 gradient accumulation steps instead of 4
    ("single", 1, {"batch__max_per_device_batch_size": 1}, Engine(model_class="plain")),
]
IDS = ["-".join([name, str(ranks), *settings]) for name, ranks, settings, _ in VARIANTS]


@pytest.fixture(scope="module")
def one_rank(launch: Launch) -> Attempts:
    return launch("single", 1)


@pytest.fixture(params=VARIANTS, ids=IDS)
def variant(request: pytest.FixtureRequest, launch: Launch) -> tuple[Attempts, Engine]:
    strategy, ranks, settings, engine = request.param
    return launch(strategy, ranks, **settings), engine


def test_a_strategy_trains_in_its_own_engine_with_the_losses_and_rows_of_one_rank(
    variant: tuple[Attempts, Engine], one_rank: Attempts
) -> None:
    attempts, engine = variant
    assert attempts.engine == engine
    assert len(attempts.losses) == 6
    assert attempts.losses == pytest.approx(one_rank.losses, rel=1e-4)
    assert [s.rows_digest for s in attempts.steps] == [s.rows_digest for s in one_rank.steps]
    assert [s.grad_norm for s in attempts.steps] == pytest.approx(
        [s.grad_norm for s in one_rank.steps], rel=1e-3
    )


def test_ranks_that_accelerate_launches_train_as_forked_ones_do(launch: Launch, fresh_run: Launch) -> None:
    started = fresh_run("zero2", 2)
    assert started.launch().returncode == 0, started.log()
    forked = launch("zero2", 2)
    assert started.engine == forked.engine == ZERO[2]
    assert started.losses == forked.losses


def test_the_validation_loss_does_not_depend_on_the_strategy(
    variant: tuple[Attempts, Engine], one_rank: Attempts
) -> None:
    found, expected = variant[0].evaluations, one_rank.evaluations
    assert [record.step for record in found] == [0, 6]
    assert [record.tokens for record in found] == [record.tokens for record in expected]
    assert [record.loss for record in found] == pytest.approx([r.loss for r in expected], rel=1e-4)
    assert found[-1].loss < found[0].loss


def test_the_loss_falls_and_the_learning_rate_follows_its_schedule(one_rank: Attempts) -> None:
    assert one_rank.losses[-1] < one_rank.losses[0] - 0.1
    # Two steps of warm-up to 2e-3, then down to zero after the sixth.
    rates = [record.learning_rate for record in one_rank.steps]
    assert rates == pytest.approx([0, 1e-3, 2e-3, 1.5e-3, 1e-3, 5e-4])


def test_documents_do_not_see_each_other_in_any_engine(variant: tuple[Attempts, Engine]) -> None:
    for mode in ("isolation_eval", "isolation_train"):
        assert variant[0].selftest[mode]["against_other_company"] <= 1e-5


def test_a_finished_run_says_so(one_rank: Attempts) -> None:
    assert one_rank.verdict is not None
    assert (one_rank.verdict.outcome, one_rank.verdict.step) == (AttemptOutcome.COMPLETED, 6)
    assert [path.name for path in one_rank.run.checkpoints.iterdir()] == ["step-00000006"]
    assert list(one_rank.run.tensorboard.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
def test_bfloat16_computes_close_to_float32(strategy: str, launch: Launch, one_rank: Attempts) -> None:
    attempts = launch(strategy, 2, model__dtype="bfloat16")
    assert attempts.losses == pytest.approx(one_rank.losses, rel=2e-2)
    assert attempts.losses != pytest.approx(one_rank.losses, rel=1e-7), "it was computed in float32"


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_adapters_alone_are_trained_and_saved(strategy: str, launch: Launch) -> None:
    lora = {"model__lora__rank": 4, "model__activation_checkpointing": "true", "optim__learning_rate": 0.02}
    expected, attempts = launch("single", 1, **lora), launch(strategy, 2, **lora)
    assert attempts.losses == pytest.approx(expected.losses, rel=1e-4)
    assert attempts.losses[-1] < attempts.losses[0] - 0.01


def test_the_last_step_may_be_short_and_validation_may_be_off(launch: Launch) -> None:
    share = {"length__num_epochs": 0.1, "length__max_steps": "null", "data__validation_share": 0}
    attempts = launch("ddp", 2, **share)
    last = attempts.steps[-1]
    rows = attempts.run.plan().steps.rows
    assert round(0.1 * rows) % 16 != 0, "the last step must be short, or this shows nothing"
    assert last.epoch == pytest.approx(round(0.1 * rows) / rows)
    assert attempts.losses == pytest.approx(launch("single", 1, **share).losses, rel=1e-4)
    assert attempts.evaluations == []
    assert attempts.log().count("nothing is evaluated; see data.validation_share") == 1
