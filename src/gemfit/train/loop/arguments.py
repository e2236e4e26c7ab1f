"""Map a plan to ``transformers.TrainingArguments``; nothing is decided here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.optimizer import optimizer_of
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe_training import DERIVED_TRACKERS
from gemfit.schemas.strategy import Fsdp
from gemfit.train.collective import COLLECTIVE_TIMEOUT


def training_arguments(plan: Plan, run: RunDir) -> TrainingArguments:
    """The arguments of HF ``Trainer``; creating them joins the process group, so open the model first."""
    # The TensorBoard callback of transformers reads the folder only from here.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.tensorboard))
    recipe = plan.recipe
    callbacks = [name for name in recipe.tracking.report_to if name not in DERIVED_TRACKERS]
    _check_trackers(callbacks)
    settings: dict[str, Any] = optimization_settings(plan) | {
        "output_dir": str(run.root),
        # Unless it is told, transformers lets DDP look for them in each pass.
        "ddp_find_unused_parameters": False,
        "ddp_timeout": int(COLLECTIVE_TIMEOUT.total_seconds()),
        "report_to": callbacks or "none",
        # Without it accelerate accumulates whole gradients on every rank: 4 bytes per parameter that no
        # number of GPUs makes smaller. A reduction in each gradient accumulation step keeps them sharded.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": _is_fsdp2(plan)}},
        "logging_steps": recipe.tracking.log_every_steps,
    }
    return on_one_gpu(TrainingArguments(**settings, **FIXED))


def on_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """The same arguments, with one GPU for this process even where more are visible.

    A process without a group would wrap the model in ``nn.DataParallel`` over all visible GPUs.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def optimization_settings(plan: Plan) -> dict[str, Any]:
    """The arguments that decide what is computed: seed, batch, learning rate, AdamW and dtype."""
    recipe, optim = plan.recipe, plan.recipe.optim
    return {
        "seed": recipe.seed,
        "max_steps": plan.steps.total,
        "per_device_train_batch_size": plan.batch.per_device_batch_size,
        "per_device_eval_batch_size": plan.batch.per_device_batch_size,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "learning_rate": optim.learning_rate,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "adam_epsilon": optim.eps,
        "weight_decay": optim.weight_decay,
        "lr_scheduler_type": optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "max_grad_norm": optim.max_grad_norm,
        "optim": optimizer_of(recipe, plan.topology),
        "bf16": recipe.model.dtype == "bfloat16",
        "use_cpu": plan.topology.device == "cpu",
    }


def _is_fsdp2(plan: Plan) -> bool:
    return isinstance(plan.recipe.strategy, Fsdp)


def _check_trackers(names: Sequence[str]) -> None:
    if set(names) <= {"tensorboard"}:  # asking for all of them imports those that are installed
        return
    available = get_available_reporting_integrations()
    if unknown := [name for name in names if name not in available]:
        raise UserError(
            f"tracking.report_to: {', '.join(unknown)} is not installed, or not supported by transformers; "
            f"available here: {', '.join(sorted(available)) or 'none'}"
        )


FIXED: dict[str, Any] = {
    # gemfit's own: checkpoints, evaluation, progress, activation checkpointing, counting of tokens.
    "save_strategy": "no",
    "eval_strategy": "no",
    "disable_tqdm": True,
    "activation_checkpointing": False,
    "average_tokens_across_devices": False,
    # A loss that is not finite must be reported, not replaced by the mean of earlier ones.
    "logging_nan_inf_filter": False,
    "remove_unused_columns": False,
    "use_cache": False,
    "log_level": "warning",
}
