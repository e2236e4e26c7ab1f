"""Everything that a model card is written from, read from the files of the run.

Reads the metrics, the manifests, and the first conversations of the data; loads the run's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemfit.checkpoint.resolve_checkpoint import LATEST, resolve_trained
from gemfit.core.text_file import read_text_file
from gemfit.data.pack.reader import read_manifest
from gemfit.errors import UserError
from gemfit.evaluate.system_prompt import SystemPrompts, system_prompts
from gemfit.export.base_model import BaseModelSource, find_base_model
from gemfit.export.user_statements import UserStatements, read_statements
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.audit import Audit
from gemfit.schemas.evaluation import Evaluation
from gemfit.schemas.manifest import CheckpointManifest, PackManifest
from gemfit.schemas.metrics_history import History, make_history, read_records
from gemfit.schemas.plan import Plan
from gemfit.summary.attempts import AttemptSummary, plan_of_attempt, summarize_attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """One checkpoint of a run, and the records up to it."""

    name: str
    step: int
    plan: Plan
    """That of the attempt that saved the checkpoint."""
    checkpoint: CheckpointManifest
    history: History
    """Up to the checkpoint."""
    attempts: tuple[AttemptSummary, ...]
    pack: PackManifest | None
    """``None`` where the pack was removed."""
    base_model: BaseModelSource
    evaluation: Evaluation | None
    audit: Audit | None
    system: SystemPrompts | str
    """Of the training data, or why they could not be counted."""
    verdict: Verdict | None
    """Of the last attempt, where it ended with this checkpoint."""
    notes: str
    user: UserStatements
    repo: str | None
    """Where the model is published; ``None`` where that is unknown."""
    is_adapter: bool
    """Whether a LoRA is published alone."""


def gather(
    run: RunDir, which: str = LATEST, *, repo: str | None = None, is_adapter: bool | None = None
) -> CardFacts:
    """The facts of the checkpoint ``which``: a step, `latest` or `best`; ``UserError`` if there is none.

    ``repo`` and ``is_adapter`` default to those of the recipe.
    """
    _, checkpoint = resolve_trained(run, which, verify=False)
    plan, user = plan_of_attempt(run, checkpoint.attempt), read_statements(run)
    records = [record for record in read_records(run.metrics_file) if record.step <= checkpoint.step]
    folder, evaluation, audit = Path(plan.pack.folder), run.evaluation_file, run.audit_file
    repo, verdict = repo or plan.recipe.hub.repo, run.verdict()
    if is_adapter is None:
        is_adapter = plan.recipe.model.lora is not None and not plan.recipe.hub.merge_adapter
    return CardFacts(
        name=repo or run.root.resolve().name,
        step=checkpoint.step,
        plan=plan,
        checkpoint=checkpoint,
        history=make_history(records, run.metrics_file),
        attempts=tuple(one for one in summarize_attempts(run, records) if one.steps),
        pack=read_manifest(folder) if (folder / "manifest.json").is_file() else None,
        base_model=find_base_model(plan, user),
        evaluation=Evaluation.read(evaluation) if evaluation.is_file() else None,
        audit=Audit.read(audit) if audit.is_file() else None,
        system=_system(plan),
        notes=read_text_file(run.card_notes).strip() if run.card_notes.is_file() else "",
        verdict=verdict if verdict and verdict.step == checkpoint.step else None,
        user=user,
        repo=repo,
        is_adapter=is_adapter,
    )


def _system(plan: Plan) -> SystemPrompts | str:
    try:
        return system_prompts(plan.recipe.data)
    except UserError as error:
        return str(error)
