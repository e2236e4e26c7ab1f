"""Write ``evaluation.json``: models are added one by one, and compared with the first."""

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
from gemfit.schemas.evaluation import ConversationLosses, EvaluatedModel, Evaluation

logger = logging.getLogger(__name__)

COMPARABLE_FIELDS = ("pack", "split", "confidence", "resamples", "seed", "settings")
"""Fields in which two evaluations must agree for their models to be comparable."""


class ModelEvaluation(NamedTuple):
    """Scores of a model, and sums per conversation: (conversations,) all."""

    scores: EvaluatedModel
    documents: NDArray[np.int64]
    losses: Floats
    tokens: Floats


def add_model(run: RunDir, header: Evaluation, added: ModelEvaluation, resampling: Resampling) -> Evaluation:
    """Add a model to the evaluation of ``run``, in place of an older one of its name.

    ``header`` is the evaluation without models. Models of an evaluation with other settings are dropped,
    with a warning.
    """
    old, losses = _stored(run, header)
    name = added.scores.name
    sums = {**losses, name: tuple(added.losses.tolist())}
    models = {model.name: model for model in (old.models if old else ())} | {name: added.scores}
    by_conversation = ConversationLosses(
        documents=tuple(added.documents.tolist()),
        tokens=tuple(added.tokens.astype(int).tolist()),
        losses=sums,
    )
    first = next(iter(models))
    made = header.model_copy(
        update={
            "models": tuple(models.values()),
            "differences": differences(by_conversation, first, resampling),
        }
    )
    run.evaluation_file.parent.mkdir(exist_ok=True)
    write_atomic(run.evaluation_losses_file, by_conversation.to_json())
    write_atomic(run.evaluation_file, made.to_json())
    return made


def _stored(run: RunDir, header: Evaluation) -> tuple[Evaluation | None, dict[str, tuple[float, ...]]]:
    """The earlier evaluation and its losses, if they are comparable."""
    if not run.evaluation_file.is_file():
        return None, {}
    try:
        old = Evaluation.read(run.evaluation_file)
        losses = ConversationLosses.read(run.evaluation_losses_file)
    except UserError as error:
        logger.warning("the earlier evaluation is dropped: %s", error)
        return None, {}
    if other := [name for name in COMPARABLE_FIELDS if getattr(old, name) != getattr(header, name)]:
        names = ", ".join(model.name for model in old.models)
        logger.warning(
            "earlier figures of %s are dropped: they were made with other %s", names, ", ".join(other)
        )
        return None, {}
    return old, losses.losses
