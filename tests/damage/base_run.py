"""A run folder with every kind of file that commands read, and its pack; a few kilobytes."""

from __future__ import annotations

from pathlib import Path

from gemfit.core.jsonl_log import append_record
from gemfit.export.user_statements import UserStatements
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.audit import Audit, AuditedModel
from gemfit.schemas.evaluation import ConversationLosses
from gemfit.schemas.metrics import LedgerRecord, SaveRecord
from gemfit.schemas.site import Site
from gemfit.tracking.tracker_state import load_state
from gemfit.upload.spool import Push, ReadyPush, SentPush, SentPushes, Spool
from gemfit_launch.planning.write_configs import write_configs
from gemfit_launch.slurm.records.job_attempts import AttemptEnd, AttemptFiles, AttemptStart, NodeEnd
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from modelcard.recorded import evaluation, evaluation_of, hardware, saved, step
from security.stranger import STEP, make_stranger


def make_base(root: Path) -> RunDir:
    """Write ``root/run`` and ``root/pack``: a Slurm run of two attempts with one checkpoint."""
    run = RunDir(make_stranger(root) / "run")
    plan = run.plan().model_copy(update={"site": Site(name="test", signal_lead_seconds=60)})
    run.plan_file.write_text(plan.to_json())
    write_configs(run, plan)
    run.deepspeed_file.write_text("{}\n")
    _records(run)
    _slurm(run)
    _hub(run)
    _after(run)
    run.begin_attempt()
    run.end_attempt(1)
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=2, step=STEP, reason="asked to stop"))
    run.stop_file.write_text("requeue\n")
    run.lock_file.touch()
    return run


def _records(run: RunDir) -> None:
    run.metrics_file.unlink()
    measured = [
        evaluation(1, 0, 990.0),
        step(1, 1, 1000.0),
        step(1, 2, 1010.0),
        SaveRecord(**saved(1, 2, 1011.0)),
    ]
    for record in (hardware(1, 0, 980.0, None), *measured):
        append_record(run.metrics_file, record)
    for number in (1, 2):
        rows = (2 * number - 2, 2 * number - 1)
        append_record(run.ledger_file, LedgerRecord(attempt=1, step=number, rows=rows))
    run.log(1).write_text("[rank 0] step 1\n[rank 0] step 2\n")
    run.earlier_plan(1).write_text(run.plan_file.read_text())


def _slurm(run: RunDir) -> None:
    submission = Submission(
        job=7, pack_job=6, site="gpu-cluster", nodes=1, folder=str(run.root.parent), time=970.0
    )
    job, files = JobFiles(run), AttemptFiles(run, 1)
    job.write_script("train", "#!/bin/bash\n")
    job.write_script("pack", "#!/bin/bash\n")
    job.record(submission)
    job.record_cancelled(7)
    job.log("train", 7).write_text("attempt 1\n")
    start = AttemptStart(attempt=1, job="7", nodes=("n1",), step=0, time=975.0)
    end = AttemptEnd(attempt=1, outcome=AttemptOutcome.INTERRUPTED, step=2, node="n1", time=1100.0)
    files.write(files.start, start)
    files.write(files.end, end)
    files.write(
        files.node(0), NodeEnd(node="n1", rank=0, stage="training", status=1, reason="a fault", time=1090.0)
    )
    files.limit.touch()
    files.hang.write_text("no step in 600 s\n")
    run.logs.joinpath("attempt-1.node-1.log").write_text("[rank 1] step 1\n")


def _hub(run: RunDir) -> None:
    push = Push(
        step=STEP, repo="user/name", private=True, branch="main", tag=False, merge_adapter=True,
        multimodal=False, message="Step 2",
    )  # fmt: skip
    spool = Spool.of(run)
    spool.add(push)
    folder = spool.folder(1)
    Spool.files(folder).mkdir(parents=True)
    Spool.manifest_file(folder).write_text(
        ReadyPush(push=push.model_copy(update={"step": 1}), files=()).to_json()
    )
    sent = SentPush(
        push=push.model_copy(update={"step": 0}), endpoint="https://hub", commit="a" * 40, url="https://hub/x",
        content="c" * 32, bytes=1, seconds=1.0, time=1.0,
    )  # fmt: skip
    spool.sent_file.write_text(SentPushes(pushes=(sent,)).to_json())
    spool.log.write_text("pushed\n")
    (spool.root / "lock").touch()


def _after(run: RunDir) -> None:
    """What verbs after a training write: evaluation, audit, card, trackers."""
    names = [model.name for model in evaluation_of(run, STEP).models]
    losses = ConversationLosses(documents=(0,), tokens=(9,), losses=dict.fromkeys(names, (1.0,)))
    run.evaluation_losses_file.write_text(losses.to_json())
    run.audit_file.parent.mkdir()
    model = AuditedModel(name="base", step=None, scores=(), findings=(), replies=())
    audit = Audit(
        suites={}, confidence=0.9, resamples=500, seed=1, models=(model,), created="2026-11-24T00:00:00Z",
        versions={},
    )  # fmt: skip
    run.audit_file.write_text(audit.to_json())
    run.card_file.parent.mkdir()
    run.card_file.write_text("---\n---\n# run\n")
    run.card_notes.write_text("Trained on a Sunday.\n")
    run.card_statements.write_text(UserStatements(license="gemma").to_json())
    load_state(run)
    aside = run.quarantine / "step-00000001"
    aside.mkdir(parents=True)
    (aside / "reason.txt").write_text("manifest.json is missing\n")
