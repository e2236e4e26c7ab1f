"""What to train: model, data, optimisation and strategy. Nothing about a cluster.

Defaults are the values of the reference recipe, so a recipe contains only what it changes. There is no field
without an effect.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gemfit.schemas.base import Contract
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.recipe_training import (
    BatchRecipe,
    CheckpointRecipe,
    EvaluationRecipe,
    LengthRecipe,
    OptimRecipe,
    TrackingRecipe,
)
from gemfit.schemas.strategy import Ddp, Strategy


class Recipe(Contract):
    """What is trained; nothing about a cluster."""

    description: str = ""
    """One line for `gemfit recipes list`."""
    model: ModelRecipe
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    batch: BatchRecipe = BatchRecipe()
    length: LengthRecipe = LengthRecipe(num_epochs=3)
    strategy: Strategy = Ddp()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    tracking: TrackingRecipe = TrackingRecipe()
    hub: HubRecipe = HubRecipe()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    skip_documents: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Conversations that are not trained, by their numbers in the pack, as `gemfit data blame` names them:
    they keep their places in their rows, and have no loss."""

    @model_validator(mode="after")
    def _the_best_of_early_stopping_stays(self) -> Self:
        if self.evaluation.early_stopping is None:
            return self
        evaluated, saved = self.evaluation.every_steps, self.checkpoint.every_steps
        if not self.checkpoint.keep_best:
            raise ValueError(
                "`evaluation.early_stopping` needs `checkpoint.keep_best`: the last is not the best"
            )
        if evaluated % saved:
            raise ValueError(
                "`evaluation.early_stopping` needs a checkpoint at each evaluation: `evaluation.every_steps` "
                f"({evaluated}) is not a multiple of `checkpoint.every_steps` ({saved})"
            )
        if not self.data.has_validation:
            raise ValueError(
                "`evaluation.early_stopping` needs a validation split; set `data.validation_share` "
                "or `data.validation`"
            )
        if self.hub.push == "end":
            raise ValueError(
                "`hub.push: end` waits for the last step, which early stopping may skip; use `best`"
            )
        return self

    @model_validator(mode="after")
    def _push_fits(self) -> Self:
        hub = self.hub
        if not hub.merge_adapter and (self.model.lora is None or self.model.id is None):
            raise ValueError("`hub.merge_adapter: false` needs `model.lora` on a `model.id`; remove it")
        if hub.multimodal and self.model.id is None:
            raise ValueError("`hub.multimodal` needs a multimodal `model.id`; remove it")
        if hub.push == "best" and not (self.checkpoint.keep_best and self.data.has_validation):
            raise ValueError("`hub.push: best` needs `checkpoint.keep_best`, and a validation split")
        return self
