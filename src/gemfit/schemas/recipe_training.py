"""Sections of a recipe on the training: optimizer, batch, length, checkpoints, evaluation, trackers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gemfit.schemas.base import Contract, PositiveInt, Share


class OptimRecipe(Contract):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0, le=3.4e38)] = 1e-4
    """Peak value, reached at the end of the warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Global gradient norm above which gradients are scaled down."""


class BatchRecipe(Contract):
    """Rows per optimizer step."""

    global_batch_size: PositiveInt = 64
    """Rows in one optimizer step, over all ranks and gradient accumulation steps."""
    max_per_device_batch_size: PositiveInt = 4
    """Upper bound of rows that one rank takes at once."""


class LengthRecipe(Contract):
    """How long to train: `num_epochs`, or `max_steps` instead."""

    num_epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.num_epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of `num_epochs` and `max_steps`; set the other to null")
        return self


class CheckpointRecipe(Contract):
    """When to save, and how many to keep."""

    every_steps: PositiveInt = 100
    keep: PositiveInt = 3
    """Number of newest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the one with the lowest validation loss as well, of those saved at an evaluated step."""
    asynchronous: bool = True
    """Continue training while a copy is written, for 12 bytes of host memory per trained parameter."""
    max_lost_steps: PositiveInt | None = None
    """Upper bound of steps lost in a crash: training waits for the save in progress before it exceeds it.
    Default: twice `every_steps`, because a save waits for the one before it."""

    @model_validator(mode="after")
    def _bound_has_effect(self) -> Self:
        if self.max_lost_steps is None:
            return self
        if not self.asynchronous:
            raise ValueError(
                "`max_lost_steps` has no effect without `asynchronous`: a crash costs at most `every_steps`"
            )
        if self.max_lost_steps < self.every_steps:
            raise ValueError(
                f"`max_lost_steps` is {self.max_lost_steps}, but {self.every_steps} steps lie between two "
                f"saves; write at least {self.every_steps}, or a smaller `every_steps`"
            )
        return self


class EarlyStopping(Contract):
    """Early stopping on the validation loss: the run ends before its last step, as completed."""

    patience: PositiveInt
    """Evaluations in a row without an improvement after which the run ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest decrease of the validation loss, in nats, that counts as an improvement."""


class EvaluationRecipe(Contract):
    """Evaluation of loss, perplexity and token accuracy on the validation split."""

    every_steps: PositiveInt = 100
    early_stopping: EarlyStopping | None = None


DERIVED_TRACKERS = ("wandb", "mlflow", "trackio")
"""Trackers that are written from the records of a run; each is also the name of its Python package."""


class TrackingRecipe(Contract):
    """Experiment trackers, in addition to the run folder."""

    report_to: tuple[str, ...] = ("tensorboard",)
    """`wandb`, `mlflow` and `trackio` get each step once, when a checkpoint holds it; `tensorboard`, and what
    else Hugging Face `TrainingArguments.report_to` knows, while it is trained."""
    log_every_steps: PositiveInt = 1
    """Steps from one record in `metrics.jsonl` to the next; the last step of an attempt has one as well."""
