"""Run an evaluation: losses, sample replies and tasks of one model after the other, compared and written.

One model is in memory at a time, on each rank. The file is written after every model, so that results
survive the failure of a later one.
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
from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.inspect.roles import make_control_tokens
from gemfit.data.pack.reader import PackedRows, open_pack
from gemfit.data.pack.shuffle import epoch_order
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.errors import UserError
from gemfit.evaluate.harness import run_tasks
from gemfit.evaluate.models import ModelRef, for_generation, open_packed, open_sharded, plan_here
from gemfit.evaluate.results import ModelEvaluation, add_model
from gemfit.evaluate.samples import GenerationSettings, ReplyPrompt, generate_samples, select_prompts
from gemfit.evaluate.scores import Resampling, by_document, depth_scores, role_scores, score
from gemfit.evaluate.sharded import is_sharded
from gemfit.evaluate.turn_losses import TurnSpan, turn_spans
from gemfit.evaluate.validation import TurnSums, make_row_group, turn_sums
from gemfit.export.export import packed_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import EvaluatedModel, Evaluation, Sample
from gemfit.schemas.plan import Plan
from gemfit.train.collective import on_first_rank, rank, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """Options of an evaluation."""

    split: str = "validation"
    rows: int | None = None
    """Most rows of the split, chosen by ``seed``; ``None``: all."""
    samples: int = 8
    max_new_tokens: int = 128
    temperature: float = 0.0
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    """Most examples per task."""
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.confidence, self.resamples, self.seed)

    @property
    def generation(self) -> GenerationSettings:
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed
        )


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationInputs:
    """Inputs that all models share: rows, turn spans and prompts."""

    plan: Plan
    pack: PackedRows
    rows: NDArray[np.int64]
    turns: dict[int, list[TurnSpan]]
    prompts: list[ReplyPrompt]
    pad_id: int


def evaluate(
    run: RunDir, refs: Sequence[ModelRef], settings: EvaluationSettings, device: torch.device
) -> Evaluation:
    """Evaluate the models ``refs``, and merge them into the evaluation of the run. Collective.

    The first model in the file is the one that others are compared with.
    """
    inputs = make_inputs(run, settings, device)
    if settings.tasks and is_sharded(inputs.plan):
        raise UserError(
            "--tasks: needs the whole model on one rank, and this strategy shards it; use --nproc 1"
        )
    stored: Evaluation | None = None
    for ref in refs:
        sums, scores = evaluate_model(run, ref, inputs, settings, device)
        documents, losses, _, tokens = by_document(sums)
        evaluated = ModelEvaluation(scores, documents, losses, tokens)
        header = _header(inputs, settings)
        stored = on_first_rank(lambda: add_model(run, header, evaluated, settings.resampling))  # noqa: B023
    assert stored is not None, "at least one model"
    return stored


def make_inputs(run: RunDir, settings: EvaluationSettings, device: torch.device) -> EvaluationInputs:
    """Rows, turn spans and prompts; ``UserError`` where the split has no trained tokens."""
    plan, tokenizer = plan_here(run, device), packed_tokenizer(run)
    folder = Path(plan.pack.folder)
    pack, files = open_pack(folder, settings.split), open_pack_files(folder)
    rows = np.sort(epoch_order(settings.seed, 0, len(pack))[: settings.rows])
    if not pack.trained_tokens.sum():
        raise UserError(f"{folder}: {settings.split} has no trained token; see data.validation_share")
    if not pack.trained_tokens[rows].sum():
        raise UserError(f"--rows {settings.rows}: the rows that were drawn have no trained token; take more")
    marks = make_control_tokens(tokenizer, files.manifest.format, files.manifest.eos)
    annotated = list(RowAnnotator(files, marks).rows(settings.split, range(len(pack))))
    prompts = select_prompts(annotated, marks, tokenizer, count=settings.samples, seed=settings.seed)
    if len(prompts) < settings.samples and rank() == 0:
        logger.warning(
            "%d of %d samples: no more conversations have a whole reply in a row of %d tokens",
            *(len(prompts), settings.samples, files.manifest.seq_len),
        )
    return EvaluationInputs(plan, pack, rows, turn_spans(annotated), prompts, pad_id(tokenizer))


def evaluate_model(
    run: RunDir, ref: ModelRef, inputs: EvaluationInputs, settings: EvaluationSettings, device: torch.device
) -> tuple[TurnSums, EvaluatedModel]:
    """All figures of one model, whole on each rank or sharded as in training. Collective.

    Ranks share rows as in training. Replies are generated from whole prompts.
    Tasks run on the first rank while the others wait.
    """
    sharded = is_sharded(inputs.plan)
    model = (open_sharded if sharded else open_packed)(run, ref, device)
    attention = model.config._attn_implementation  # generation may take another
    sequence = make_row_group(model, inputs.plan)
    shared = f", each on {sequence.degree} ranks" if sequence.degree > 1 else ""
    with _bar(ref.name, len(inputs.rows), f"rows{shared}") as bar:
        sums = turn_sums(
            model,
            inputs.plan,
            inputs.pack,
            inputs.rows,
            inputs.turns,
            pad_id=inputs.pad_id,
            progress=bar.update,
            sequence=sequence,
        )
    loaded = for_generation(run, model)
    with _bar(ref.name, len(inputs.prompts), "samples") as bar:
        replies = generate_samples(loaded, inputs.prompts, settings.generation, bar.update, sharded=sharded)
    batch, resampling = inputs.plan.batch.per_device_batch_size, settings.resampling
    tasks = on_first_rank(
        lambda: run_tasks(loaded, settings.tasks, limit=settings.limit, batch_size=batch, seed=settings.seed)
    )
    return sums, EvaluatedModel(
        name=ref.name,
        step=ref.step,
        overall=score(sums, resampling),
        roles=role_scores(sums, resampling),
        depths=depth_scores(sums, resampling),
        samples=tuple(
            Sample(prompt=prompt.prompt, reference=prompt.reference, reply=reply)
            for prompt, reply in zip(inputs.prompts, replies, strict=True)
        ),
        tasks=tasks,
        attention=attention,
    )


def _header(inputs: EvaluationInputs, settings: EvaluationSettings) -> Evaluation:
    """The evaluation without models."""
    recorded: dict[str, JsonValue] = {
        "rows": len(inputs.rows),
        "samples": len(inputs.prompts),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "tasks": list(settings.tasks),
        "limit": settings.limit,
    }
    return Evaluation(
        pack=inputs.plan.pack.fingerprint,
        split=settings.split,
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
        world_size=world_size(),
        models=(),
        settings=recorded,
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
