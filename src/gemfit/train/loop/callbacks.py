"""Callback at step boundaries: agreed stop, validation, checkpoints, and metrics records.

One all-reduce per step carries the loss, the stop requests, the rows that were taken and whether an
asynchronous save has failed.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from gemfit.core.host_name import host_name
from gemfit.core.jsonl_log import append_record
from gemfit.data.pack.reader import PackedRows
from gemfit.data.pack.shuffle import rows_digest
from gemfit.errors import UserError
from gemfit.schemas.base import Contract
from gemfit.schemas.metrics import EvalRecord, LedgerRecord, SlowCause, SlowRankRecord, StepRecord
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.data.batches import RowSchedule
from gemfit.train.data.row_ledger import RowLedger
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.early_stopping import EarlyStoppingMonitor
from gemfit.train.loop.finite import check_finite, name_rows
from gemfit.train.loop.layer_timer import LayerTimer
from gemfit.train.loop.network_probe import (
    MESSAGE_BYTES,
    NetworkProbe,
    SlowNetwork,
    SlowNetworkDetector,
    gradient_bytes,
)
from gemfit.train.loop.slow_rank import LocalTime, SlowRank, SlowRankDetector, to_slots, waiting_seconds
from gemfit.train.loop.validation_loop import ValidationResult
from gemfit.train.trainer_view import TrainerView

logger = logging.getLogger(__name__)


class StepView(TrainerView, Protocol):
    """What this callback reads of the trainer: the state of the loop."""

    stop: Stop
    saver: Saver
    schedule: RowSchedule
    ledger: RowLedger
    early_stopping: EarlyStoppingMonitor
    validation_rows: PackedRows
    validation_results: dict[int, ValidationResult]
    evaluation_seconds: float
    data_seconds: float
    layer_timer: LayerTimer
    grad_norm: float | None
    lr_scheduler: Any


class BoundaryCallback(TrainerCallback):
    """Decides at each step boundary, the same on every rank, and writes metrics records on rank 0."""

    def __init__(self, trainer: StepView) -> None:
        self.trainer = trainer
        self.learning_rate = 0.0
        self.unrecorded: StepRecord | None = None
        """The newest step, where `tracking.log_every_steps` left it out."""
        self.started = self.wait_seconds = 0.0
        self.slow_ranks = SlowRankDetector(trainer.plan.batch.world_size)
        self.probe: NetworkProbe | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        self.hosts = on_every_rank(host_name)
        self._prepare_probe()
        trainer.layer_timer.take()  # what the self-test took
        self.has_validation = bool(trainer.validation_rows.trained_tokens.sum())
        if not self.has_validation:
            args.eval_on_start = False
            if trainer.plan.recipe.evaluation.early_stopping is not None:
                raise UserError(
                    "evaluation.early_stopping: the validation split has no trained token; "
                    "raise data.validation_share"
                )
            if rank() == 0:
                logger.warning(
                    "the validation split has no trained token, so nothing is evaluated; "
                    "see data.validation_share"
                )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A function of the step, so that a resumed run needs no saved random state. Dropout differs by rank.
        seeds = np.random.SeedSequence([self.trainer.plan.recipe.seed, state.global_step, rank()])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.started = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.learning_rate = self.trainer.lr_scheduler.get_last_lr()[0]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, step, recipe = self.trainer, state.global_step, self.trainer.plan.recipe
        loss_share, ranks = trainer.take_step_loss(), trainer.plan.batch.world_size
        local = LocalTime(compute=trainer.layer_timer.take(), input=trainer.data_seconds)
        summed, failed_saves, *taken = trainer.stop.agree(
            step,
            loss_share,
            float(trainer.saver.failed),
            *to_slots(local, rank(), ranks),
            *self._probe_slots(),
            *trainer.ledger.take(),
        )
        times, taken = np.array(taken[: 3 * ranks]).reshape(3, ranks), taken[3 * ranks :]
        self.wait_seconds = waiting_seconds(times[:2])
        self._find_slow_ranks(step, times[:2])
        self._find_slow_network(step, times[2])
        if failed_saves:
            trainer.saver.wait()  # raises: a save fails on all ranks or on none
        seconds = self._step_seconds()
        trainer.saver.bound_lost_steps(step)
        loss = summed / trainer.plan.batch.world_size
        rows = trainer.ledger.rows(taken, trainer.schedule.rows_of(step - 1))
        state.epoch = trainer.schedule.epoch(step)
        if not math.isfinite(loss):
            check_finite(loss, f"the loss of step {step}", name_rows(rows, Path(trainer.plan.pack.folder)))
        last = step >= state.max_steps
        ledger = LedgerRecord(attempt=trainer.attempt, step=step, rows=tuple(rows.tolist()))
        self._write(trainer.run.ledger_file, ledger)
        self.unrecorded = self._step_record(step, loss, seconds, rows_digest(rows))
        if step % recipe.tracking.log_every_steps == 0 or last or trainer.stop.agreed:
            self._record_step()
        due = last or step % recipe.evaluation.every_steps == 0
        control.should_evaluate = self.has_validation and due and (last or not trainer.stop.agreed)
        control.should_save = last or trainer.stop.agreed or step % recipe.checkpoint.every_steps == 0
        control.should_training_stop = last or trainer.stop.agreed

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, trainer = state.global_step, self.trainer
        found = trainer.validation_results[step]
        check_finite(found.loss, f"the validation loss at step {step}")
        trainer.early_stopping.add(step, found.loss)
        ends = trainer.early_stopping.stop is not None and step < state.max_steps
        if ends:
            self._record_step()
        self._write(
            trainer.run.metrics_file,
            EvalRecord(
                attempt=trainer.attempt,
                step=step,
                loss=found.loss,
                perplexity=found.perplexity,
                token_accuracy=found.token_accuracy,
                tokens=found.tokens,
                seconds=trainer.evaluation_seconds,
                time=time.time(),
            ),
        )
        if rank() == 0:
            logger.info(
                "step %d: validation loss %.4f, perplexity %.2f, token accuracy %.3f",
                *(step, found.loss, found.perplexity, found.token_accuracy),
            )
        if ends:
            control.should_training_stop = control.should_save = True
            if rank() == 0:
                logger.info("step %d: %s", step, trainer.early_stopping.reason)

    def _prepare_probe(self) -> None:
        trainer, ranks = self.trainer, self.trainer.plan.batch.world_size
        if ranks == 1:
            return
        per_host = trainer.plan.topology.ranks_per_node
        self.probe = NetworkProbe(rank=rank(), ranks=ranks, ranks_per_host=per_host)
        self.slow_networks = SlowNetworkDetector(ranks, gradient_bytes(trainer.model_wrapped), MESSAGE_BYTES)

    def _probe_slots(self) -> list[float]:
        return [0.0] if self.probe is None else self.probe.slots()

    def _find_slow_ranks(self, step: int, times: NDArray[np.float64]) -> None:
        for found in self.slow_ranks.add(times, self._step_seconds()):
            self._name_slow_rank(step, found, found.cause)

    def _find_slow_network(self, step: int, received: NDArray[np.float64]) -> None:
        """Take the times of the exchange before this step, and exchange again if it is time."""
        if self.probe is None:
            return
        if received.all():
            shift = self.probe.shift_of(step - 1)
            for found in self.slow_networks.add(received, shift, self._step_seconds()):
                self._name_slow_rank(step, found, "network")
        self.probe.after_step(step)

    def _name_slow_rank(self, step: int, found: SlowRank | SlowNetwork, cause: SlowCause) -> None:
        trainer = self.trainer
        record = SlowRankRecord(
            attempt=trainer.attempt,
            step=step,
            rank=found.rank,
            host=self.hosts[found.rank],
            cause=cause,
            seconds=found.seconds,
            others_seconds=found.others_seconds,
            time=time.time(),
        )
        self._write(trainer.run.metrics_file, record)
        if rank() == 0:
            logger.warning("warning: %s", record.text)

    def _step_seconds(self) -> float:
        # The step's batches were fetched before it began.
        return time.perf_counter() - self.started + self.trainer.data_seconds

    def _step_record(self, step: int, loss: float, seconds: float, digest: str) -> StepRecord:
        trainer, schedule = self.trainer, self.trainer.schedule
        return StepRecord(
            attempt=trainer.attempt,
            step=step,
            epoch=schedule.epoch(step),
            loss=loss,
            learning_rate=self.learning_rate,
            grad_norm=trainer.grad_norm,
            tokens_per_second=schedule.tokens(step - 1) / seconds,
            time=time.time(),
            data_seconds=trainer.data_seconds,
            seconds=seconds,
            tokens=schedule.tokens(step - 1),
            trained_tokens=schedule.trained_tokens(step - 1),
            wait_seconds=self.wait_seconds,
            rows_digest=digest,
        )

    def _record_step(self) -> None:
        """Write the record of the newest step, if this attempt made one and it is not written yet."""
        record, self.unrecorded = self.unrecorded, None
        if record is None:
            return
        self._write(self.trainer.run.metrics_file, record)
        if rank() == 0:
            logger.info(
                "step %d/%d: loss %.4f, %.0f tokens/s",
                *(record.step, self.trainer.plan.steps.total, record.loss, record.tokens_per_second),
            )

    def _write(self, path: Path, record: Contract) -> None:
        if rank() == 0:
            append_record(path, record)
