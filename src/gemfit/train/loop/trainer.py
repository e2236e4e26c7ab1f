"""HF ``Trainer`` with our data order, loss normalisation, evaluation and checkpoints.

Its loop, its engines and its callbacks are kept. The loss of a micro-batch is the sum over its trained
tokens, divided by the trained tokens of the whole optimizer step, times the number of ranks, because
every engine averages gradients over ranks: the gradient is that of the mean over all trained tokens,
whatever the accumulation and the world size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from gemfit.core.jsonl_log import append_record
from gemfit.data.pack.reader import PackedRows, open_pack
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import SaveRecord
from gemfit.schemas.optimizer import batches_ahead
from gemfit.schemas.plan import Plan
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.save_load import Origin, resume
from gemfit.train.checks import selftest
from gemfit.train.collective import on_every_rank
from gemfit.train.data.batches import HeldOutBatches, Schedule, TrainBatches
from gemfit.train.data.prefetch_loader import BatchesAhead
from gemfit.train.data.row_ledger import Ledger
from gemfit.train.distributed.engine import fsdp_plugin, place, reshard, restored_buffers, sharded
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.arguments import training_arguments
from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.ddp_buckets import settle, share_memory
from gemfit.train.loop.early_stopping import EarlyStops
from gemfit.train.loop.validation import HeldOut, measure, to_device
from gemfit.train.model.architecture import decoder_layers
from gemfit.train.model.build import OpenedModel
from gemfit.train.model.compile import compile_layers
from gemfit.train.model.liger import use_liger
from gemfit.train.model.sharded_init import load_into_engine
from gemfit.train.telemetry.energy import EnergyCallback
from gemfit.train.telemetry.hardware import HardwareCallback
from gemfit.train.telemetry.memory import PeakMemory
from gemfit.upload.background_uploader import Pusher

logger = logging.getLogger(__name__)


class PackedTrainer(Trainer):
    """Carries out one attempt of a plan."""

    # Trainer would divide by the number of micro-steps; our loss is already a share of the whole step's.
    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        *,
        run: RunDir,
        plan: Plan,
        attempt: int,
        opened: OpenedModel,
        tokenizer: Any,
        stop: Stop,
        allowed_changes: Collection[str] = (),
    ) -> None:
        self.run, self.plan, self.attempt, self.allowed_changes = run, plan, attempt, allowed_changes
        rows = open_pack(Path(plan.pack.folder), "train")
        self.training_identity = plan.training_identity() | {
            "pack.tokenizer_digest": rows.manifest.tokenizer_digest
        }
        self.held_out_rows: PackedRows = open_pack(Path(plan.pack.folder), "validation")
        self.schedule, self.pad_id = Schedule(plan, rows), pad_id(tokenizer)
        arguments = training_arguments(plan, run)
        self.stop, self.ledger = stop, Ledger(plan.batch, arguments.process_index)
        self.step_loss = torch.zeros((), device=arguments.device)
        self.grad_norm: float | None = None
        self.data_seconds = 0.0
        """How long this rank waited for the batches of the step at hand."""
        self.evaluation_seconds = 0.0
        """How long the last evaluation took."""
        self.measured: dict[int, HeldOut] = {}
        """The newest evaluation, by the step after which it was made."""
        self.early = EarlyStops(plan.recipe.evaluation.early_stopping)
        batches = TrainBatches(self.schedule, arguments.process_index, self.pad_id)
        self.base_weights = opened.weights
        self._speed_up(opened.model, arguments.device)
        place(opened.model, plan, arguments.device)
        super().__init__(model=opened.model, args=arguments, train_dataset=batches)
        self.pusher = Pusher(run, plan)
        self.saver = Saver(
            run,
            self._origin(),
            asynchronous=plan.recipe.checkpoint.asynchronous,
            max_lost_steps=plan.recipe.checkpoint.max_lost_steps,
            on_commit=self._committed,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(BoundaryCallback(self))
        self.add_callback(PeakMemory(self))
        self.add_callback(HardwareCallback(self))
        self.add_callback(EnergyCallback(self))

    def _speed_up(self, model: Any, device: torch.device) -> None:
        """What the recipe wants of kernels and compilation, before any engine has seen the model."""
        recipe = self.plan.recipe.model
        if recipe.kernels == "liger":
            on_every_rank(lambda: use_liger(model, device, getattr(torch, recipe.dtype)))
        if recipe.compile:
            compile_layers(model)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        if self.plan.recipe.strategy.kind == "fsdp2":
            arguments["fsdp_plugin"] = fsdp_plugin(self.plan, decoder_layers(self.model))
        if self.plan.recipe.strategy.kind == "ddp":
            share_memory(arguments["kwargs_handlers"])
        return arguments

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's own micro-batches: accelerate must not shard them a second time."""
        on_gpu = self.plan.topology.device == "cuda"
        return BatchesAhead(self.train_dataset, depth=batches_ahead(self.plan.batch), pin=on_gpu)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of the next step, and how long they were waited for."""
        started = time.perf_counter()
        taken = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.data_seconds = time.perf_counter() - started
        return taken

    def _prepare_inputs(self, inputs: Any) -> Any:
        return to_device(inputs, self.args.device)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        with restored_buffers(self.model), sharded(self.model, self.plan, self.args.device):
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        manifest = resume(
            self.run,
            model=self.model_wrapped,
            optimizer=self.optimizer,
            scheduler=self.lr_scheduler,
            accelerator=self.accelerator,
            training=self.training_identity,
            allowed_changes=self.allowed_changes,
        )
        if self.base_weights is not None:
            # A checkpoint holds what is trained; what is frozen is read again.
            load_into_engine(
                self.model_wrapped,
                self.accelerator.unwrap_model(self.model_wrapped),
                self.base_weights,
                trained=manifest is None,
            )
        if manifest is not None:
            self.state.global_step = self.train_dataset.start_step = manifest.step
            self.saver.safe_step = manifest.step
            self.early.recall(self.run.metrics_file, manifest.step)
        self.args.eval_on_start = manifest is None or self._missed_evaluation(manifest.step)
        selftest.check(self)
        reshard(self.model_wrapped)
        if self.plan.recipe.strategy.kind == "ddp":
            settle(self)
        return prepared

    def _missed_evaluation(self, step: int) -> bool:
        """Whether early stopping waits for the figure of ``step``, where a stop came before it."""
        return step % self.plan.recipe.evaluation.every_steps == 0 and self.early.lacks(step)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        resumed_at_the_end = self.state.global_step >= self.state.max_steps
        if resumed_at_the_end or self.early.stop is not None:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the step's loss, times the number of ranks: ()."""
        step_tokens = inputs.pop("step_tokens")
        if (rows := inputs.pop("rows", None)) is not None:  # the self-test makes its own
            self.ledger.note(rows)
        output = model(**inputs)
        # A step without a single trained token has a loss of zero, not of 0 / 0.
        loss = output.loss_sum * (self.plan.batch.world_size / max(step_tokens, 1))
        self.step_loss += loss.detach()
        return (loss, output) if return_outputs else loss

    def take_step_loss(self) -> float:
        """This rank's part of the loss since the last call, times the number of ranks."""
        loss = float(self.step_loss)
        self.step_loss.zero_()
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would walk over all parameters for every micro-batch."""
        return 0

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm)
        found = found.full_tensor() if hasattr(found, "full_tensor") else found
        self.grad_norm = None if found is None else float(found)
        return self.grad_norm

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the held-out rows with the weights after ``state.global_step`` steps. Collective."""
        step, started = self.state.global_step, time.perf_counter()
        batches = HeldOutBatches(self.plan, self.held_out_rows, self.args.process_index, self.pad_id)
        found = measure(self.model_wrapped, batches, stop=self.stop, step=step, device=self.args.device)
        reshard(self.model_wrapped)
        if found is None:
            return {}
        self.measured = {step: found}
        self.evaluation_seconds = time.perf_counter() - started
        metrics = {
            "eval_loss": found.loss,
            "eval_perplexity": found.perplexity,
            "eval_token_accuracy": found.token_accuracy,
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        self.saver.save(
            step=step,
            cursor_row=self.schedule.cursor(step),
            eval_loss=self.measured[step].loss if step in self.measured else None,
            model=self.model_wrapped,
            optimizer=self.optimizer,
            scheduler=self.lr_scheduler,
            accelerator=self.accelerator,
        )

    def _committed(self, record: SaveRecord) -> None:
        append_record(self.run.metrics_file, record)
        self.pusher.committed(record.step)

    def _origin(self) -> Origin:
        checkpoint = self.plan.recipe.checkpoint
        return Origin(
            attempt=self.attempt,
            strategy=self.plan.recipe.strategy.label,
            plan_digest=self.plan.digest,
            training=self.training_identity,
            keep=checkpoint.keep,
            keep_best=checkpoint.keep_best,
        )
