"""One rank of one attempt, from run folder to verdict: builds the trainer with its hooks and runs it.

The heavy imports happen while this module is loaded; ``__main__`` turns errors into exit codes.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import Verdict
from gemfit.schemas.plan import Plan
from gemfit.train.checks import selftest
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.distributed.cpu_backend import use_cpu_backend
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.build import load_matching_tokenizer, open_model
from gemfit.train.telemetry.energy import EnergyCallback
from gemfit.train.telemetry.hardware import HardwareCallback
from gemfit.train.telemetry.peak_memory import PeakMemoryCallback
from gemfit.train.trainer_view import TrainerHooks
from gemfit.upload.background_uploader import BackgroundUploader

CALLBACKS = (BoundaryCallback, PeakMemoryCallback, HardwareCallback, EnergyCallback)
"""In the order in which transformers calls them."""


def attempt_number(run: RunDir) -> int:
    """The attempt of this process: from the launcher's environment, else the run's current one."""
    return int(os.environ.get("GEMFIT_ATTEMPT") or run.attempt)


def train(root: Path, stop_at: int | None, allowed_changes: Collection[str] = ()) -> ExitCode:
    """Train until the plan is done or the ranks agree to stop; rank 0 writes the verdict."""
    disable_progress_bar()  # the output goes to a log file
    run = RunDir.open(root)
    plan, attempt = run.plan(), attempt_number(run)
    _check_world_size(plan)
    prepare_attention(plan.topology.device)
    if plan.topology.device == "cpu":
        use_cpu_backend()
    stop = Stop(run, stop_at, torch.device(plan.topology.device))
    stop.listen()  # before the minutes that reading a large model may take
    tokenizer = load_matching_tokenizer(plan)
    uploader = BackgroundUploader(run, plan)
    trainer = PackedTrainer(
        run=run,
        plan=plan,
        attempt=attempt,
        opened=open_model(plan.recipe, tokenizer),
        tokenizer=tokenizer,
        stop=stop,
        hooks=TrainerHooks(callbacks=CALLBACKS, self_test=selftest.check, on_commit=uploader.on_commit),
        allowed_changes=allowed_changes,
    )
    if rank() == 0:
        uploader.begin()
    with trainer.saver:
        trainer.train()
    verdict = _verdict(trainer)
    completed = verdict.outcome is AttemptOutcome.COMPLETED
    if rank() == 0:
        run.write_verdict(verdict)
    seconds = plan.recipe.hub.wait_seconds if completed else 0  # a preempted job has no time to wait
    # The first rank that exits makes the launcher end the others, so all of them wait for the uploads.
    on_every_rank(lambda: uploader.finish(seconds) if rank() == 0 else None)
    return ExitCode.DONE if completed else ExitCode.STOPPED


def write_fatal(root: Path, error: UserError) -> None:
    """Record in the run folder that another attempt cannot succeed; called once, by rank 0."""
    run = RunDir.open(root)
    run.write_verdict(
        Verdict(outcome=AttemptOutcome.FATAL, attempt=attempt_number(run), step=0, reason=str(error))
    )


def _verdict(trainer: PackedTrainer) -> Verdict:
    """How the attempt ended: completed at the last step or by early stopping, else stopped."""
    step: int = trainer.state.global_step
    all_steps_done = step >= trainer.plan.steps.total
    early = None if all_steps_done else trainer.early_stopping.stop
    return Verdict(
        outcome=AttemptOutcome.COMPLETED if all_steps_done or early is not None else AttemptOutcome.STOPPED,
        attempt=trainer.attempt,
        step=step,
        reason=trainer.early_stopping.reason if early else "",
        early_stop=early,
    )


def _check_world_size(plan: Plan) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != plan.topology.world_size:
        raise UserError(
            f"plan.json is for {plan.topology.world_size} ranks, but {started} were started; "
            "use the plan's own command, or plan again for this number"
        )
