"""Every kind of file in a run folder: a new kind is added here, and to ``base_run``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

STATE = (
    "plan.json",
    "attempt",
    "verdict.json",
    "stop",
    "lock",
    "plans/plan-*.json",
    "plans/attempt-*.json",
    "metrics.jsonl",
    "ledger.jsonl",
    "trackers.json",
)
FOR_READERS = (
    "recipe.yaml",
    "accelerate.yaml",
    "deepspeed.json",
    "logs/attempt-*.log",
    "logs/attempt-*.node-*.log",
    "evaluation/evaluation.json",
    "evaluation/conversations.json",
    "audit/audit.json",
    "card/README.md",
    "card/notes.md",
    "card/stated.json",
    "quarantine/*/reason.txt",
)
CHECKPOINT = ("manifest.json", "manifest.xxh3", ".metadata", "*.distcp")
SLURM = (
    "slurm/submissions.json",
    "slurm/*.sbatch",
    "slurm/*-*.log",
    "slurm/job-*.cancelled",
    "slurm/attempt-*.start.json",
    "slurm/attempt-*.end.json",
    "slurm/attempt-*.node-*.json",
    "slurm/attempt-*.hang",
    "slurm/attempt-*.limit",
)
HUB = ("hub/lock", "hub/push.log", "hub/sent.json", "hub/pending/step-*.json", "hub/step-*/manifest.json")
FILES = (*STATE, *FOR_READERS, *(f"checkpoints/step-*/{name}" for name in CHECKPOINT), *SLURM, *HUB)
"""Patterns of files that commands read or replace; ``base_run`` has at least one of each."""
FOLDERS = (
    *("", "checkpoints", "checkpoints/*", "export", "hub", "hub/step-*", "hub/step-*/files", "logs", "plans"),
    *("quarantine", "report", "slurm", "tensorboard", "trackers"),
)
UNREAD = (
    *("tensorboard/*", "trackers/*", "export/*", "report/*", "hub/step-*/files/*", "quarantine/*/*"),
    *("checkpoints/step-*/*.json", "audit/audit.md"),
)
"""Files of other libraries, and output: no command of this project reads its state from them.

Those of a checkpoint, and those that are to be pushed, are compared with their digests before they are read.
"""


def is_known(path: str) -> bool:
    """Whether ``path``, relative to the run folder, is of a kind that is named here."""
    return any(fnmatchcase(path, pattern) for pattern in (*FILES, *UNREAD))


def unknown_files(run: Path) -> list[str]:
    """Files of a run folder of no known kind, relative to it."""
    found = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return sorted(name for name in found if not is_known(name))
