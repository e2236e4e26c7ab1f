"""One small run with a checkpoint, for all tests of evaluation."""

from __future__ import annotations

import pytest

from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from train.trained import Trained, train

TINY = ScratchModel(
    vocab_size=400,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    head_dim=16,
    sliding_window=16,
)
FULL = ModelRecipe(scratch=TINY, dtype="float32", attention="eager")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("full"), FULL)
