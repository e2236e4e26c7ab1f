"""Everything that a report tells of a run, read once from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gemfit.data.inspect.pack_files import open_evidence
from gemfit.data.inspect.stats import Columns, collect, read_columns
from gemfit.errors import UserError
from gemfit.report.attempts import Attempt, make_attempts
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit
from gemfit.schemas.base import Contract
from gemfit.schemas.evaluation import ConversationLosses, Evaluation
from gemfit.schemas.manifest import CheckpointManifest, missing_or_resized
from gemfit.schemas.metrics import StepRecord, Verdict
from gemfit.schemas.metrics_history import History, make_history, read_records
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import RunFacts

Model = TypeVar("Model", bound=Contract)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint, as names and sizes show it."""

    folder: str
    manifest: CheckpointManifest | None
    problem: str | None


@dataclass(frozen=True, slots=True, eq=False)
class PackView:
    """The figures of a pack, and what they are made of."""

    figures: dict[str, Any]
    columns: Columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Story:
    """A run, and all that was found out about it."""

    run: RunDir
    plan: Plan
    state: str
    verdict: Verdict | None
    history: History
    attempts: tuple[Attempt, ...]
    checkpoints: tuple[Checkpoint, ...]
    pack: PackView | None
    no_pack: str
    """Why there are no figures of its data."""
    evaluation: Evaluation | None
    losses: ConversationLosses | None
    """Of the evaluation, conversation by conversation."""
    audit: Audit | None
    facts: RunFacts

    @property
    def name(self) -> str:
        return self.run.root.resolve().name

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        return self.history.steps

    @property
    def redone(self) -> tuple[StepRecord, ...]:
        """Steps that a later attempt did again."""
        return tuple(step for attempt in self.attempts for step in attempt.redone)


def gather(root: Path, facts: RunFacts, *, with_pack: bool = True) -> Story:
    """Read the run; a run without a training step, or with a broken record, is a ``UserError``."""
    run = RunDir.open(root)
    records = read_records(run.metrics_file)
    state = facts.state or _state(run)
    pack, no_pack = _pack(run.plan()) if with_pack else (None, "")
    return Story(
        run=run,
        plan=run.plan(),
        state=state,
        verdict=run.verdict(),
        history=make_history(records, run.metrics_file),
        attempts=make_attempts(run, records, state=state, endings=facts.endings),
        checkpoints=_checkpoints(run.committed()),
        pack=pack,
        no_pack=no_pack,
        evaluation=_read(Evaluation, run.evaluation_file),
        losses=_read(ConversationLosses, run.evaluation_losses_file),
        audit=_read(Audit, run.audit_file),
        facts=facts,
    )


def _read(model: type[Model], path: Path) -> Model | None:
    return model.read(path) if path.is_file() else None


def _state(run: RunDir) -> str:
    if run.is_active:
        return "running"
    verdict = run.verdict()
    return verdict.outcome if verdict else "crashed"


def _pack(plan: Plan) -> tuple[PackView | None, str]:
    """A pack that is gone or unsound leaves the report without its figures, and says so."""
    try:
        pack = open_evidence(Path(plan.pack.folder))
        columns = read_columns(pack)
        return PackView(collect(pack, columns), columns), ""
    except UserError as error:
        return None, str(error)


def _checkpoints(folders: Sequence[Path]) -> tuple[Checkpoint, ...]:
    found = [_checkpoint(folder) for folder in folders]
    return tuple(sorted(found, key=lambda one: (one.manifest.step if one.manifest else -1, one.folder)))


def _checkpoint(folder: Path) -> Checkpoint:
    try:
        manifest = CheckpointManifest.read(folder / "manifest.json")
    except UserError as error:
        return Checkpoint(folder.name, None, str(error))
    return Checkpoint(folder.name, manifest, missing_or_resized(folder, manifest.files))
