"""The evaluation of a run on disk: subjects are added one by one, and compared with the first."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.evaluate.scores import Resampling, differences
from gemfit.evaluate.validation import Floats
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import ConversationLosses, Evaluation, SubjectScores

logger = logging.getLogger(__name__)

COMPARABLE_FIELDS = ("pack", "split", "confidence", "resamples", "seed", "settings")
"""What two evaluations must agree in, so that their subjects can stand in one table."""


class ModelEvaluation(NamedTuple):
    """A subject, and what each conversation gave: (conversations,) all."""

    scores: SubjectScores
    documents: NDArray[np.int64]
    losses: Floats
    tokens: Floats


def store(run: RunDir, frame: Evaluation, measured: ModelEvaluation, drawn: Resampling) -> Evaluation:
    """Add a subject to the evaluation of ``run``, in place of an older one of its name.

    ``frame`` is the evaluation without subjects. Subjects of an evaluation that asked something else are
    given up, and that is said.
    """
    old, losses = _stored(run, frame)
    name = measured.scores.name
    sums = {**losses, name: tuple(measured.losses.tolist())}
    kept = {subject.name: subject for subject in (old.subjects if old else ())} | {name: measured.scores}
    by_conversation = ConversationLosses(
        documents=tuple(measured.documents.tolist()),
        tokens=tuple(measured.tokens.astype(int).tolist()),
        losses=sums,
    )
    subjects = tuple(kept.values())
    made = frame.model_copy(
        update={
            "subjects": subjects,
            "differences": differences(by_conversation, subjects[0].name, drawn),
        }
    )
    run.evaluation_file.parent.mkdir(exist_ok=True)
    write_atomic(run.evaluation_losses_file, by_conversation.to_json())
    write_atomic(run.evaluation_file, made.to_json())
    return made


def _stored(run: RunDir, frame: Evaluation) -> tuple[Evaluation | None, dict[str, tuple[float, ...]]]:
    """What is there and can be kept."""
    if not run.evaluation_file.is_file():
        return None, {}
    try:
        old = Evaluation.read(run.evaluation_file)
        losses = ConversationLosses.read(run.evaluation_losses_file)
    except UserError as error:
        logger.warning("the earlier evaluation is given up: %s", error)
        return None, {}
    if other := [name for name in COMPARABLE_FIELDS if getattr(old, name) != getattr(frame, name)]:
        names = ", ".join(subject.name for subject in old.subjects)
        logger.warning(
            "earlier figures of %s are given up: they were asked for with other %s", names, ", ".join(other)
        )
        return None, {}
    return old, losses.losses
