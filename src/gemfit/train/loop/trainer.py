"""HF ``Trainer`` with gemfit's data order, loss normalization, validation and checkpoints.

Its loop, its engines and its callbacks are used. The loss of a batch is the sum over its labelled tokens,
divided by the labelled tokens of the whole optimizer step, times the number of ranks, because every engine
averages gradients over ranks: the gradient is that of the mean over all labelled tokens, whatever the
gradient accumulation and the world size.

Callbacks, self-test and uploads come in as ``TrainerHooks``: this module imports none of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from gemfit.core.jsonl_log import append_record
from gemfit.data.inspect.skipped_documents import open_training_rows
from gemfit.data.pack.reader import PackedRows, open_pack
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest
from gemfit.schemas.metrics import ProgressActivity, SaveRecord
from gemfit.schemas.optimizer import prefetch_depth
from gemfit.schemas.plan import Plan
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState, resume
from gemfit.train.collective import on_every_rank, on_first_rank
from gemfit.train.data.batches import RowSchedule, TrainBatches, ValidationBatches
from gemfit.train.data.collate import to_device
from gemfit.train.data.prefetch_loader import PrefetchLoader
from gemfit.train.data.row_ledger import RowLedger
from gemfit.train.distributed.engine import (
    allocate_unsharded,
    fsdp_plugin,
    reshard,
    restored_buffers,
    sharded_init,
)
from gemfit.train.distributed.meta_init import cast_frozen
from gemfit.train.distributed.stop import Stop
from gemfit.train.heartbeat import Heartbeat
from gemfit.train.loop.arguments import training_arguments
from gemfit.train.loop.ddp_buckets import allocate_gradients, send_no_buffers, use_bucket_views
from gemfit.train.loop.early_stopping import EarlyStoppingMonitor
from gemfit.train.loop.finite import check_grad_norm, is_finite_norm, name_rows
from gemfit.train.loop.layer_timer import LayerTimer
from gemfit.train.loop.validation_loop import ValidationResult, evaluate_rows
from gemfit.train.model.attention_probe import take_proven
from gemfit.train.model.build import OpenedModel
from gemfit.train.model.compile import compile_layers
from gemfit.train.model.liger import use_liger
from gemfit.train.model.sharded_init import load_into_engine
from gemfit.train.model.text_architecture import decoder_layers
from gemfit.train.model.ulysses import use_sequence_parallel
from gemfit.train.sequence_group import make_sequence_group
from gemfit.train.trainer_view import TrainerHooks


class PackedTrainer(Trainer):
    """Trains one attempt of a plan."""

    # Trainer would divide by the gradient accumulation steps; the loss is already a share of the step's.
    loss_is_scaled_for_ga = True
    control: Any
    args: Any
    accelerator: Any
    model_wrapped: Any

    def __init__(
        self,
        *,
        run: RunDir,
        plan: Plan,
        attempt: int,
        opened: OpenedModel,
        tokenizer: Any,
        stop: Stop,
        hooks: TrainerHooks,
        allowed_changes: Collection[str] = (),
    ) -> None:
        self.run, self.attempt, self.allowed_changes = run, attempt, allowed_changes
        self.hooks, self.stop = hooks, stop
        arguments, plan_digest = training_arguments(plan, run), plan.digest
        self.plan = plan = take_proven(plan, opened.model, arguments.device)
        rows = open_training_rows(Path(plan.pack.folder), plan.recipe.skip_documents)
        self.training_identity = plan.training_identity() | {
            "pack.tokenizer_digest": rows.manifest.tokenizer_digest
        }
        self.validation_rows: PackedRows = open_pack(Path(plan.pack.folder), "validation")
        self.schedule, self.pad_id = RowSchedule(plan, rows), pad_id(tokenizer)
        self.sequence = make_sequence_group(plan.batch.sequence_parallel)
        self.ledger = RowLedger(plan.batch, arguments.process_index)
        self.step_loss = torch.zeros((), device=arguments.device)
        self.layer_timer = LayerTimer(arguments.device)
        self.grad_norm: float | None = None
        self.data_seconds = 0.0
        """How long this rank waited for the batches of the current step."""
        self.evaluation_seconds = 0.0
        """How long the last validation took."""
        self.validation_results: dict[int, ValidationResult] = {}
        """The newest validation, by the step after which it was made."""
        self.early_stopping = EarlyStoppingMonitor(plan.recipe.evaluation.early_stopping)
        batches = TrainBatches(self.schedule, arguments.process_index, self.pad_id, self.sequence)
        self.base_weights = opened.weights
        # Their own precision: kept in float32, they would take twice the memory and be cast at each use.
        cast_frozen(opened.model, getattr(torch, plan.recipe.model.dtype))
        self._optimize_layers(opened.model, arguments.device)
        allocate_unsharded(opened.model, plan, arguments.device)
        super().__init__(model=opened.model, args=arguments, train_dataset=batches)
        self.saver = Saver(
            run,
            self._save_context(plan_digest),
            asynchronous=plan.recipe.checkpoint.asynchronous,
            max_lost_steps=plan.recipe.checkpoint.max_lost_steps,
            on_commit=self._committed,
            make_heartbeat=lambda: self._heartbeat("checkpoint"),
        )
        self.remove_callback(PrinterCallback)
        for make_callback in hooks.callbacks:
            self.add_callback(make_callback(self))

    def _optimize_layers(self, model: Any, device: torch.device) -> None:
        """Apply the recipe's kernels, exchange of heads and compilation, before an engine wraps the model."""
        recipe = self.plan.recipe.model
        if self.sequence.degree > 1:
            on_every_rank(lambda: use_sequence_parallel(model, self.sequence.degree))
        if recipe.kernels == "liger":
            on_every_rank(lambda: use_liger(model, device, getattr(torch, recipe.dtype)))
        if recipe.compile:
            compile_layers(model)
        if self.plan.batch.world_size > 1:
            # ZeRO-3 gathers parameters, and a sequence group exchanges activations, within a layer.
            leaves = self.plan.engine.zero_stage == 3 or self.sequence.degree > 1
            self.layer_timer.watch(model, decoder_layers(model), leaves=leaves)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        if self.plan.recipe.strategy.kind == "fsdp2":
            arguments["fsdp_plugin"] = fsdp_plugin(self.plan, decoder_layers(self.model))
        if self.plan.recipe.strategy.kind == "ddp":
            use_bucket_views(arguments["kwargs_handlers"])
        return arguments

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's own batches: accelerate must not shard them a second time."""
        on_gpu = self.plan.topology.device == "cuda"
        return PrefetchLoader(self.train_dataset, depth=prefetch_depth(self.plan.batch), pin=on_gpu)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of the next step; records how long the rank waited for them."""
        started = time.perf_counter()
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.data_seconds = time.perf_counter() - started
        return samples

    def _prepare_inputs(self, inputs: Any) -> Any:
        return to_device(inputs, self.args.device)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        with restored_buffers(self.model), sharded_init(self.model, self.plan, self.args.device):
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self.hooks.mark_start("engine")
        manifest = resume(
            self.run,
            self._training_state(),
            identity=self.training_identity,
            allowed_changes=self.allowed_changes,
            heartbeat=self._heartbeat("resume"),
        )
        self._load_base_weights(trained=manifest is None)
        if manifest is not None:
            self._continue_from(manifest)
        self.args.eval_on_start = manifest is None or self._missed_evaluation(manifest.step)
        self.hooks.mark_start("weights")
        self.hooks.self_test(self)
        self.hooks.mark_start("self-test")
        reshard(self.model_wrapped)
        if self.plan.recipe.strategy.kind == "ddp":
            send_no_buffers(self.model_wrapped)
            allocate_gradients(self)
        return prepared

    def _load_base_weights(self, *, trained: bool) -> None:
        """Read frozen weights, which no checkpoint holds, and the ``trained`` ones of a new run."""
        if self.base_weights is not None:
            module = self.accelerator.unwrap_model(self.model_wrapped)
            load_into_engine(
                self.model_wrapped,
                module,
                self.base_weights,
                trained=trained,
                heartbeat=self._heartbeat("loading weights"),
            )

    def _heartbeat(self, activity: ProgressActivity) -> Heartbeat:
        return Heartbeat(self.run.metrics_file, self.attempt, self.state.global_step, activity)

    def _continue_from(self, manifest: CheckpointManifest) -> None:
        self.state.global_step = self.train_dataset.start_step = manifest.step
        self.saver.safe_step = manifest.step
        self.early_stopping.load(self.run.metrics_file, manifest.step)

    def _missed_evaluation(self, step: int) -> bool:
        """Whether early stopping needs the loss of ``step``, where a stop came before its evaluation."""
        return step % self.plan.recipe.evaluation.every_steps == 0 and self.early_stopping.lacks(step)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        resumed_at_the_end = self.state.global_step >= self.state.max_steps
        if resumed_at_the_end or self.early_stopping.stop is not None:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward pass of one gradient accumulation step; its loss: ()."""
        if self.plan.engine.replicas > 1:
            # Copies of a sharded model exchange their gradients once per step, in its last backward pass.
            model.set_requires_all_reduce(self.accelerator.sync_gradients)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This batch's share of the step's loss, times the number of ranks: ()."""
        step_tokens = inputs.pop("step_tokens")
        rows = inputs.pop("rows", None)
        output = model(**inputs)
        # A step without a single labelled token has a loss of zero, not of 0 / 0.
        loss = output.loss_sum * (self.plan.batch.world_size / max(step_tokens, 1))
        self.step_loss += loss.detach()
        if rows is not None:  # rows of the self-test have no number
            self.ledger.add(rows, loss.detach())
        return (loss, output) if return_outputs else loss

    def take_step_loss(self) -> float:
        """This rank's share of the loss since the last call, times the number of ranks."""
        loss = float(self.step_loss)
        self.step_loss.zero_()
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would iterate over all parameters for every batch."""
        return 0

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm)
        found = found.full_tensor() if hasattr(found, "full_tensor") else found
        self.grad_norm = None if found is None else float(found)
        if self.grad_norm is not None and not is_finite_norm(self.grad_norm):
            # Before the optimizer's step, except under DeepSpeed, which has done it.
            self._refuse_step(self.grad_norm)
        return self.grad_norm

    def _refuse_step(self, norm: float) -> None:
        """``FloatingPointError`` on every rank, with the rows whose loss is not finite, else the step's."""
        step = self.state.global_step
        at_fault = {row for rows in on_every_rank(self.ledger.not_finite) for row in rows}
        rows = sorted(at_fault) or self.schedule.rows_of(step)
        named = on_first_rank(lambda: name_rows(rows, Path(self.plan.pack.folder)))
        check_grad_norm(norm, step + 1, named)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the validation rows with the weights after ``state.global_step`` steps. Collective."""
        step, started = self.state.global_step, time.perf_counter()
        batches = ValidationBatches(
            self.plan, self.validation_rows, self.args.process_index, self.pad_id, self.sequence
        )
        found = evaluate_rows(
            self.model_wrapped,
            batches,
            stop=self.stop,
            step=step,
            device=self.args.device,
            heartbeat=self._heartbeat("evaluation"),
        )
        reshard(self.model_wrapped)
        if found is None:
            return {}
        self.validation_results = {step: found}
        self.evaluation_seconds = time.perf_counter() - started
        self.hooks.mark_start("evaluation")
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
        validation = self.validation_results.get(step)
        self.saver.save(
            self._training_state(),
            step=step,
            cursor_row=self.schedule.cursor(step),
            eval_loss=None if validation is None else validation.loss,
        )

    def _committed(self, record: SaveRecord) -> None:
        append_record(self.run.metrics_file, record)
        for on_commit in self.hooks.on_commit:
            on_commit(record.step)

    def _training_state(self) -> TrainingState:
        return TrainingState(
            model=self.model_wrapped,
            optimizer=self.optimizer,
            scheduler=self.lr_scheduler,
            accelerator=self.accelerator,
        )

    def _save_context(self, plan_digest: str) -> SaveContext:
        checkpoint = self.plan.recipe.checkpoint
        return SaveContext(
            attempt=self.attempt,
            strategy=self.plan.recipe.strategy.label,
            plan_digest=plan_digest,
            training=self.training_identity,
            keep=checkpoint.keep,
            keep_best=checkpoint.keep_best,
        )
