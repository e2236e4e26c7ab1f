"""Everything that a report shows of a run, read once from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.inspect.stat_columns import StatColumns
from gemfit.data.inspect.stats import collect, read_columns
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.audit import Audit
from gemfit.schemas.base import Contract
from gemfit.schemas.evaluation import ConversationLosses, Evaluation
from gemfit.schemas.goodput import Goodput
from gemfit.schemas.manifest import CheckpointManifest, missing_or_resized
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.metrics_history import History, make_history, plan_as_trained, read_records
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import RunFacts
from gemfit.summary.attempts import AttemptSummary, summarize_attempts
from gemfit.summary.goodput import measure_goodput

Model = TypeVar("Model", bound=Contract)


@dataclass(frozen=True, slots=True)
class ListedCheckpoint:
    """A committed checkpoint, checked by names and sizes of its files."""

    folder: str
    manifest: CheckpointManifest | None
    problem: str | None


@dataclass(frozen=True, slots=True, eq=False)
class PackView:
    """Statistics of a pack, and the columns that they are computed from."""

    figures: dict[str, Any]
    columns: StatColumns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunReport:
    """A run with its records, pack statistics, evaluation and audit."""

    folder: RunDir
    plan: Plan
    state: str
    verdict: Verdict | None
    history: History
    attempts: tuple[AttemptSummary, ...]
    checkpoints: tuple[ListedCheckpoint, ...]
    pack: PackView | None
    no_pack: str
    """Why there are no statistics of its data."""
    evaluation: Evaluation | None
    losses: ConversationLosses | None
    """Of the evaluation, by conversation."""
    audit: Audit | None
    facts: RunFacts
    goodput: Goodput | None
    """``None`` where no attempt has ended or left a record."""

    @property
    def name(self) -> str:
        return self.folder.root.resolve().name

    @property
    def trained_plan(self) -> Plan:
        """The plan with the attention that the last attempt took."""
        return plan_as_trained(self.plan, self.history.hardware)

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        return self.history.steps

    @property
    def num_repeated(self) -> int:
        """Steps that a later attempt trained again, those without a record included."""
        return sum(sum(attempt.repeats) for attempt in self.attempts)


def load_run(root: Path, facts: RunFacts, *, with_pack: bool = True) -> RunReport:
    """Read the run; a run without a training step, or with a broken record, is a ``UserError``."""
    run = RunDir.open(root)
    records = read_records(run.metrics_file)
    state = facts.state or _state(run)
    attempts = summarize_attempts(run, records, state=state, endings=facts.endings)
    pack, no_pack = _pack(run.plan()) if with_pack else (None, "")
    return RunReport(
        folder=run,
        plan=run.plan(),
        state=state,
        verdict=run.verdict(),
        history=make_history(records, run.metrics_file),
        attempts=attempts,
        checkpoints=_checkpoints(run.committed()),
        pack=pack,
        no_pack=no_pack,
        evaluation=_read(Evaluation, run.evaluation_file),
        losses=_read(ConversationLosses, run.evaluation_losses_file),
        audit=_read(Audit, run.audit_file),
        facts=facts,
        goodput=measure_goodput(run, records, attempts, facts.price),
    )


def _read(model: type[Model], path: Path) -> Model | None:
    return model.read(path) if path.is_file() else None


def _state(run: RunDir) -> str:
    if run.is_active:
        return "running"
    verdict = run.verdict()
    return verdict.outcome if verdict else AttemptOutcome.CRASHED


def _pack(plan: Plan) -> tuple[PackView | None, str]:
    """Statistics of the pack, or why a missing or damaged one has none."""
    try:
        pack = open_pack_files(Path(plan.pack.folder))
        columns = read_columns(pack)
        return PackView(collect(pack, columns), columns), ""
    except UserError as error:
        return None, str(error)


def _checkpoints(folders: Sequence[Path]) -> tuple[ListedCheckpoint, ...]:
    found = [_checkpoint(folder) for folder in folders]
    return tuple(sorted(found, key=lambda one: (one.manifest.step if one.manifest else -1, one.folder)))


def _checkpoint(folder: Path) -> ListedCheckpoint:
    try:
        manifest = CheckpointManifest.read(folder / "manifest.json")
    except UserError as error:
        return ListedCheckpoint(folder.name, None, str(error))
    return ListedCheckpoint(folder.name, manifest, missing_or_resized(folder, manifest.files))
