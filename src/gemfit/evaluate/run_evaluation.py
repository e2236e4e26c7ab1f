"""An evaluation from start to end: measure subjects one after the other, let them speak, compare, write.

One subject is in memory at a time, on each rank. The file is written after every subject, so that what
was measured stays where a later one fails.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from pydantic import JsonValue
from tqdm import tqdm

from gemfit import __version__
from gemfit.data.inspect.annotate import RowAnnotator
from gemfit.data.inspect.pack_files import open_evidence
from gemfit.data.inspect.roles import make_marks
from gemfit.data.pack.reader import PackedRows, open_pack
from gemfit.data.pack.shuffle import epoch_order
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.errors import UserError
from gemfit.evaluate.harness import run_tasks
from gemfit.evaluate.models import ModelRef, for_generation, open_packed, open_sharded, plan_here
from gemfit.evaluate.results import ModelEvaluation, store
from gemfit.evaluate.samples import GenerationSettings, ReplyPrompt, answers, choose
from gemfit.evaluate.scores import Resampling, by_document, depth_scores, role_scores, score
from gemfit.evaluate.sharded import is_sharded
from gemfit.evaluate.turn_losses import TurnSpan, stretches
from gemfit.evaluate.validation import TurnSums, measure
from gemfit.export.export import packed_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import Evaluation, Sample, SubjectScores
from gemfit.schemas.plan import Plan
from gemfit.train.collective import on_first_rank, rank, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is measured, and how."""

    split: str = "validation"
    rows: int | None = None
    """Held-out rows at most, chosen by ``seed``; all when left out."""
    samples: int = 8
    max_new_tokens: int = 128
    temperature: float = 0.0
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    """Examples of each task at most."""
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.confidence, self.resamples, self.seed)

    @property
    def speech(self) -> GenerationSettings:
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed
        )


@dataclass(frozen=True, slots=True, eq=False)
class EvalTask:
    """What all subjects are asked: the same rows and the same openings."""

    plan: Plan
    pack: PackedRows
    rows: NDArray[np.int64]
    turns: dict[int, list[TurnSpan]]
    openings: list[ReplyPrompt]
    pad_id: int


def evaluate(
    run: RunDir, subjects: Sequence[ModelRef], settings: Settings, device: torch.device
) -> Evaluation:
    """Measure ``subjects``, and merge them into the evaluation of the run. Collective.

    The first subject that is stored is the one that others are compared with.
    """
    exam = make_exam(run, settings, device)
    if settings.tasks and is_sharded(exam.plan):
        raise UserError(
            "--tasks: needs the whole model on one rank, and this strategy shards it; use --nproc 1"
        )
    stored: Evaluation | None = None
    for subject in subjects:
        sums, scores = examine(run, subject, exam, settings, device)
        documents, losses, _, tokens = by_document(sums)
        measured = ModelEvaluation(scores, documents, losses, tokens)
        frame = _frame(exam, settings)
        stored = on_first_rank(lambda: store(run, frame, measured, settings.resampling))  # noqa: B023
    assert stored is not None, "at least one subject"
    return stored


def make_exam(run: RunDir, settings: Settings, device: torch.device) -> EvalTask:
    """Rows, turns and openings; ``UserError`` where nothing is held out."""
    plan, tokenizer = plan_here(run, device), packed_tokenizer(run)
    folder = Path(plan.pack.folder)
    pack, evidence = open_pack(folder, settings.split), open_evidence(folder)
    rows = np.sort(epoch_order(settings.seed, 0, len(pack))[: settings.rows])
    if not pack.trained_tokens.sum():
        raise UserError(f"{folder}: {settings.split} has no trained token; see data.validation_share")
    if not pack.trained_tokens[rows].sum():
        raise UserError(f"--rows {settings.rows}: the rows that were drawn have no trained token; take more")
    marks = make_marks(tokenizer, evidence.manifest.format, evidence.manifest.eos)
    described = list(RowAnnotator(evidence, marks).rows(settings.split, range(len(pack))))
    openings = choose(described, marks, tokenizer, count=settings.samples, seed=settings.seed)
    if len(openings) < settings.samples and rank() == 0:
        logger.warning(
            "%d of %d samples: no more conversations have a whole reply in a row of %d tokens",
            *(len(openings), settings.samples, evidence.manifest.seq_len),
        )
    return EvalTask(plan, pack, rows, stretches(described), openings, pad_id(tokenizer))


def examine(
    run: RunDir, subject: ModelRef, exam: EvalTask, settings: Settings, device: torch.device
) -> tuple[TurnSums, SubjectScores]:
    """All figures of one subject, whole on each rank or spread over them as in training. Collective.

    Tasks run on the first rank while the others wait.
    """
    together = is_sharded(exam.plan)
    model = (open_sharded if together else open_packed)(run, subject, device)
    with _bar(subject.name, len(exam.rows), "rows") as bar:
        sums = measure(
            model, exam.plan, exam.pack, exam.rows, exam.turns, pad_id=exam.pad_id, progress=bar.update
        )
    opened = for_generation(run, model)
    with _bar(subject.name, len(exam.openings), "samples") as bar:
        said = answers(opened, exam.openings, settings.speech, bar.update, together=together)
    batch, drawn = exam.plan.batch.per_device_batch_size, settings.resampling
    tasks = on_first_rank(
        lambda: run_tasks(opened, settings.tasks, limit=settings.limit, batch_size=batch, seed=settings.seed)
    )
    return sums, SubjectScores(
        name=subject.name,
        step=subject.step,
        overall=score(sums, drawn),
        roles=role_scores(sums, drawn),
        depths=depth_scores(sums, drawn),
        samples=tuple(
            Sample(prompt=opening.prompt, reference=opening.reference, reply=reply)
            for opening, reply in zip(exam.openings, said, strict=True)
        ),
        tasks=tasks,
    )


def _frame(exam: EvalTask, settings: Settings) -> Evaluation:
    """The evaluation without its subjects."""
    asked: dict[str, JsonValue] = {
        "rows": len(exam.rows),
        "samples": len(exam.openings),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "tasks": list(settings.tasks),
        "limit": settings.limit,
    }
    return Evaluation(
        pack=exam.plan.pack.fingerprint,
        split=settings.split,
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
        world_size=world_size(),
        subjects=(),
        settings=asked,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "gemfit": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    )


def _bar(name: str, total: int, what: str) -> tqdm[None]:
    return tqdm(total=total, desc=f"{name}: {what}", unit="", disable=None if rank() == 0 else True)
