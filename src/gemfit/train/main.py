"""One rank of one attempt: from the run folder to the verdict.

The heavy imports happen while this module is loaded; ``__main__`` has told the user's mistakes from bugs.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import Verdict
from gemfit.schemas.plan import Plan
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.distributed.cpu_backend import use_cpu_backend
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.model.attention import prepare_attention
from gemfit.train.model.build import load_matching_tokenizer, open_model


def attempt_number(run: RunDir) -> int:
    """The attempt that this process belongs to: as the launcher says, else the run's current one."""
    return int(os.environ.get("GEMFIT_ATTEMPT") or run.attempt)


def train(root: Path, stop_at: int | None, allowed_changes: Collection[str] = ()) -> ExitCode:
    """Train until the plan is done or a stop is agreed; rank 0 leaves the verdict."""
    disable_progress_bar()  # a log file is no terminal
    run = RunDir.open(root)
    plan, attempt = run.plan(), attempt_number(run)
    _check_world(plan)
    prepare_attention(plan.topology.device)
    if plan.topology.device == "cpu":
        use_cpu_backend()
    stop = Stop(run, stop_at, torch.device(plan.topology.device))
    stop.listen()  # before the minutes that reading a large model may take
    tokenizer = load_matching_tokenizer(plan)
    trainer = PackedTrainer(
        run=run,
        plan=plan,
        attempt=attempt,
        opened=open_model(plan.recipe, tokenizer),
        tokenizer=tokenizer,
        stop=stop,
        allowed_changes=allowed_changes,
    )
    if rank() == 0:
        trainer.pusher.begin()
    with trainer.saver:
        trainer.train()
    step = trainer.state.global_step
    all_done = step >= plan.steps.total
    early = None if all_done else trainer.early.stop
    completed = all_done or early is not None
    verdict = Verdict(
        outcome="completed" if completed else "stopped",
        attempt=attempt,
        step=step,
        reason=trainer.early.reason if early else "",
        early_stop=early,
    )
    if rank() == 0:
        run.write_verdict(verdict)
    seconds = plan.recipe.hub.wait_seconds if completed else 0  # who is preempted has no time
    # The first rank to end makes the launcher end the others, so they wait for the pushes together.
    on_every_rank(lambda: trainer.pusher.finish(seconds) if rank() == 0 else None)
    return ExitCode.DONE if completed else ExitCode.STOPPED


def write_fatal(root: Path, error: UserError) -> None:
    """Say in the run folder that trying again is of no use; called once, by rank 0."""
    run = RunDir.open(root)
    run.write_verdict(Verdict(outcome="fatal", attempt=attempt_number(run), step=0, reason=str(error)))


def _check_world(plan: Plan) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != plan.topology.world_size:
        raise UserError(
            f"plan.json is for {plan.topology.world_size} ranks, but {started} were started; "
            "use the plan's own command, or plan again for this number"
        )
