"""All that a card is written from, each figure from the one file that holds it.

Reads the metrics, the manifests, and the first conversations of the data; loads the run's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gemfit.checkpoint import integrity
from gemfit.data.pack.reader import read_manifest
from gemfit.errors import UserError
from gemfit.evaluate.system_prompt import SystemPrompts, system_prompts
from gemfit.modelcard.attempts import Attempt, plan_of_attempt, read_attempts
from gemfit.modelcard.base_model import Origin, find_origin
from gemfit.modelcard.user_statements import Stated, read_stated
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit
from gemfit.schemas.evaluation import Evaluation
from gemfit.schemas.manifest import CheckpointManifest, PackManifest
from gemfit.schemas.metrics import Verdict
from gemfit.schemas.metrics_history import History, read_history
from gemfit.schemas.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What is known of one checkpoint of a run."""

    name: str
    step: int
    plan: Plan
    """Under which the checkpoint was saved."""
    checkpoint: CheckpointManifest
    history: History
    """Up to the checkpoint."""
    attempts: tuple[Attempt, ...]
    pack: PackManifest | None
    """``None`` where the pack is gone."""
    origin: Origin
    evaluation: Evaluation | None
    audit: Audit | None
    system: SystemPrompts | str
    """Of the training data, or why they could not be counted."""
    verdict: Verdict | None
    """Of the last attempt, where it ended with this checkpoint."""
    notes: str
    stated: Stated
    repo: str | None
    """Where the model is published, if that is known."""
    is_adapter: bool
    """Whether a LoRA is published alone."""


def gather(
    run: RunDir, step: int | None = None, *, repo: str | None = None, is_adapter: bool | None = None
) -> CardFacts:
    """The facts of the checkpoint of ``step``, or of the newest; ``UserError`` without a checkpoint.

    ``repo`` and ``is_adapter`` are as the recipe has them unless given.
    """
    checkpoint = find_checkpoint(run, step)
    plan, stated = plan_of_attempt(run, checkpoint.attempt), read_stated(run)
    folder, evaluation, audit = Path(plan.pack.folder), run.evaluation_file, run.audit_file
    repo, verdict = repo or plan.recipe.hub.repo, run.verdict()
    if is_adapter is None:
        is_adapter = plan.recipe.model.lora is not None and not plan.recipe.hub.merge_adapter
    return CardFacts(
        name=repo or run.root.resolve().name,
        step=checkpoint.step,
        plan=plan,
        checkpoint=checkpoint,
        history=until(read_history(run.metrics_file), checkpoint.step),
        attempts=read_attempts(run, checkpoint.step),
        pack=read_manifest(folder) if (folder / "manifest.json").is_file() else None,
        origin=find_origin(plan, stated),
        evaluation=Evaluation.read(evaluation) if evaluation.is_file() else None,
        audit=Audit.read(audit) if audit.is_file() else None,
        system=_system(plan),
        notes=run.card_notes.read_text(encoding="utf-8").strip() if run.card_notes.is_file() else "",
        verdict=verdict if verdict and verdict.step == checkpoint.step else None,
        stated=stated,
        repo=repo,
        is_adapter=is_adapter,
    )


def find_checkpoint(run: RunDir, step: int | None) -> CheckpointManifest:
    """The manifest of the checkpoint of ``step``, or of the newest. Weights are not read."""
    found = [integrity.read_manifest(folder) for folder in run.committed()]
    manifests = {manifest.step: manifest for manifest in found if not isinstance(manifest, str)}
    if not manifests:
        raise UserError(f"{run.checkpoints}: there is no checkpoint yet; train until the first is saved")
    if step is not None and step not in manifests:
        steps = ", ".join(map(str, sorted(manifests)))
        raise UserError(f"{run.checkpoints}: there is no checkpoint of step {step}; there is {steps}")
    return manifests[max(manifests) if step is None else step]


def until(history: History, step: int) -> History:
    """What ``history`` tells of the training up to ``step``."""
    return replace(
        history,
        steps=tuple(record for record in history.steps if record.step <= step),
        evaluations=tuple(record for record in history.evaluations if record.step <= step),
        resumed_at=tuple(resumed for resumed in history.resumed_at if resumed < step),
        saves=tuple(record for record in history.saves if record.step <= step),
    )


def _system(plan: Plan) -> SystemPrompts | str:
    try:
        return system_prompts(plan.recipe.data)
    except UserError as error:
        return str(error)
