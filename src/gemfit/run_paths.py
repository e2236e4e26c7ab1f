"""Paths in a run folder; those of Slurm jobs' records and of the spool's files are defined with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STEP = "[0-9]" * 8
"""Pattern of a step in names; other names are not the run's own."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where a run keeps what."""

    root: Path

    @property
    def plan_file(self) -> Path:
        return self.root / "plan.json"

    @property
    def plans(self) -> Path:
        """Folder of replaced plans and of `AttemptRecord` files."""
        return self.root / "plans"

    def earlier_plan(self, attempt: int) -> Path:
        """The replaced plan that ``attempt`` was the last to run."""
        return self.plans / f"plan-{attempt}.json"

    def attempt_record_file(self, attempt: int) -> Path:
        return self.plans / f"attempt-{attempt}.json"

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, for reading only."""
        return self.root / "recipe.yaml"

    @property
    def accelerate_file(self) -> Path:
        return self.root / "accelerate.yaml"

    @property
    def deepspeed_file(self) -> Path:
        return self.root / "deepspeed.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of the committed checkpoint of ``step``."""
        return self.checkpoints / f"step-{step:08d}"

    def staging(self, step: int, attempt: int) -> Path:
        """Folder in which it is written before its commit; one per attempt, so that attempts do not mix."""
        return self.checkpoints / f".staging-{step:08d}-{attempt}"

    def replaced(self, step: int) -> Path:
        """Folder of an older checkpoint of the same step until the new one is committed."""
        return self.checkpoints / f"replaced-{step:08d}"

    def retired(self, name: str) -> Path:
        """Folder to which the checkpoint folder ``name`` is renamed while it is removed."""
        return self.checkpoints / f".retired-{name}"

    @property
    def quarantine(self) -> Path:
        """Folder of damaged checkpoints."""
        return self.root / "quarantine"

    def committed(self) -> list[Path]:
        """Folders of committed checkpoints, in no particular order."""
        return [*self.checkpoints.glob(f"step-{_STEP}"), *self.checkpoints.glob(f"replaced-{_STEP}")]

    @property
    def export(self) -> Path:
        """Default folder of the exported Hugging Face model."""
        return self.root / "export"

    @property
    def evaluation_file(self) -> Path:
        """An `Evaluation` of the base model and of checkpoints."""
        return self.root / "evaluation" / "evaluation.json"

    @property
    def evaluation_losses_file(self) -> Path:
        """`ConversationLosses` of the models in ``evaluation_file``."""
        return self.root / "evaluation" / "conversations.json"

    @property
    def audit_file(self) -> Path:
        """An `Audit` of the base model and of checkpoints."""
        return self.root / "audit" / "audit.json"

    @property
    def card_file(self) -> Path:
        """The model card, with its header for the Hugging Face Hub."""
        return self.root / "card" / "README.md"

    @property
    def card_notes(self) -> Path:
        """User's own section of the model card, in Markdown."""
        return self.root / "card" / "notes.md"

    @property
    def card_statements(self) -> Path:
        """User statements for the model card that no file of the run contains."""
        return self.root / "card" / "stated.json"

    @property
    def report(self) -> Path:
        """Default folder of the report: `index.html` and the pictures as PNG."""
        return self.root / "report"

    @property
    def spool(self) -> Path:
        """Upload queue for the Hugging Face Hub."""
        return self.root / "hub"

    @property
    def spooled_steps(self) -> list[int]:
        """Steps whose upload to the Hugging Face Hub is pending."""
        found = [*self.spool.glob(f"step-{_STEP}"), *self.spool.glob(f"pending/step-{_STEP}.json")]
        return sorted({int(path.stem.removeprefix("step-")) for path in found})

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, attempt: int) -> Path:
        """Everything that the processes of one attempt printed."""
        return self.logs / f"attempt-{attempt}.log"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def trackers(self) -> Path:
        """What experiment trackers write where they have no server."""
        return self.root / "trackers"

    @property
    def trackers_file(self) -> Path:
        """Ids of the run in experiment trackers."""
        return self.root / "trackers.json"

    @property
    def metrics_file(self) -> Path:
        """JSON lines, each a `Record` of ``gemfit.schemas.metrics``, over all attempts."""
        return self.root / "metrics.jsonl"

    @property
    def ledger_file(self) -> Path:
        """JSON lines, a `LedgerRecord` for every optimizer step, over all attempts."""
        return self.root / "ledger.jsonl"

    @property
    def stop_file(self) -> Path:
        """Its presence asks the run to save and stop."""
        return self.root / "stop"

    @property
    def verdict_file(self) -> Path:
        return self.root / "verdict.json"

    @property
    def attempt_file(self) -> Path:
        return self.root / "attempt"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"
