"""One rank of one attempt, from run folder to verdict: builds the trainer with its hooks and runs it.

The heavy imports happen while this module is loaded; ``__main__`` turns errors into exit codes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit.tracking.tracker_process import TrackerProcess
from gemfit.train.attempt_verdict import attempt_number, rank_of_process, write_failure
from gemfit.train.checks import selftest
from gemfit.train.checks.failure_verdict import judge_failure
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.distributed.cpu_backend import use_cpu_backend
from gemfit.train.distributed.numa_binding import bind_to_gpu
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.build import load_matching_tokenizer, open_model
from gemfit.train.telemetry.energy import EnergyCallback
from gemfit.train.telemetry.hardware import HardwareCallback
from gemfit.train.telemetry.peak_memory import PeakMemoryCallback
from gemfit.train.telemetry.start_parts import StartCallback, StartParts
from gemfit.train.telemetry.trackers import TrackerCallback
from gemfit.train.trainer_view import TrainerHooks
from gemfit.upload.background_uploader import BackgroundUploader

logger = logging.getLogger(__name__)

FIRST_RANK_SECONDS = 2.0
"""Time for rank 0 to state an error that all ranks have met."""
TRACKER_SECONDS, STOPPED_TRACKER_SECONDS = 60.0, 3.0
"""How long a completed and a stopped training wait for what experiment trackers still lack."""
CALLBACKS = (BoundaryCallback, PeakMemoryCallback, HardwareCallback, EnergyCallback, TrackerCallback)
"""In the order in which transformers calls them."""


def train(root: Path, stop_at: int | None, allowed_changes: Collection[str] = ()) -> ExitCode:
    """Train until the plan is done or the ranks agree to stop; rank 0 writes the verdict.

    An error that every further attempt would meet leaves a verdict too, by the rank that it happens to.
    """
    start = StartParts()
    start.mark("imports")
    disable_progress_bar()  # the output goes to a log file
    run = RunDir.open(root)
    plan, trainer = run.plan(), None
    try:
        _check_world_size(plan)
        uploader, trackers = BackgroundUploader(run, plan), TrackerProcess(run, plan)
        on_commit = (uploader.on_commit, trackers.on_commit)
        trainer = _make_trainer(run, plan, stop_at, allowed_changes, on_commit, start)
        return _run_attempt(trainer, uploader, trackers)
    except Exception as error:
        _state_failure(run, plan, error, trainer)
        raise


def _make_trainer(
    run: RunDir,
    plan: Plan,
    stop_at: int | None,
    allowed: Collection[str],
    on_commit: Sequence[Callable[[int], None]],
    start: StartParts,
) -> PackedTrainer:
    prepare_attention(plan.topology.device)
    if plan.topology.device == "cpu":
        use_cpu_backend()
    else:  # before any thread or pinned memory
        bind_to_gpu(int(os.environ.get("LOCAL_RANK", "0")), plan.topology.ranks_per_node)
    stop = Stop(run, stop_at, torch.device(plan.topology.device))
    stop.listen()  # before the minutes that reading a large model may take
    tokenizer = load_matching_tokenizer(plan)
    opened = open_model(plan.recipe, tokenizer)
    start.mark("model")
    trainer = PackedTrainer(
        run=run,
        plan=plan,
        attempt=attempt_number(run),
        opened=opened,
        tokenizer=tokenizer,
        stop=stop,
        hooks=TrainerHooks(
            callbacks=(*CALLBACKS, partial(StartCallback, start=start)),
            self_test=selftest.check,
            mark_start=start.mark,
            on_commit=on_commit,
        ),
        allowed_changes=allowed,
    )
    start.mark("trainer")
    return trainer


def _run_attempt(trainer: PackedTrainer, uploader: BackgroundUploader, trackers: TrackerProcess) -> ExitCode:
    if rank() == 0:
        uploader.begin()
        trackers.begin()
    with trainer.saver:
        trainer.train()
    verdict = _verdict(trainer)
    completed = verdict.outcome is AttemptOutcome.COMPLETED
    if rank() == 0:
        trainer.run.write_verdict(verdict)
    # A preempted job has no time to wait.
    seconds = trainer.plan.recipe.hub.wait_seconds if completed else 0

    def finish() -> None:
        trackers.finish(TRACKER_SECONDS if completed else STOPPED_TRACKER_SECONDS)
        uploader.finish(seconds)

    # The first rank that exits makes the launcher end the others, so all of them wait for the uploads.
    on_every_rank(lambda: finish() if rank() == 0 else None)
    return ExitCode.DONE if completed else ExitCode.STOPPED


def _state_failure(run: RunDir, plan: Plan, error: Exception, trainer: PackedTrainer | None) -> None:
    """Leave a verdict where the error is one that a restart does not help."""
    step = trainer.state.global_step if trainer else 0
    stepped = trainer is not None and step > trainer.train_dataset.start_step
    model = (trainer.plan if trainer else plan).recipe.model  # it may have taken another attention
    found = judge_failure(error, model, stepped=stepped)
    if found is None:
        return
    if (number := rank_of_process()) > 0:
        time.sleep(FIRST_RANK_SECONDS)
    if write_failure(run, found.outcome, found.reason, step=step) and number > 0:
        logger.error("error: %s", found.reason)


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
