"""What a recipe may say, and the values of the model card."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from gemfit.schemas.base import Contract, digest_json
from gemfit.schemas.batch import Batch
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.schemas.recipe_training import CheckpointRecipe, LengthRecipe

CARD = Recipe(model=ModelRecipe(id="google/gemma-3-1b-it"))


def test_defaults_are_the_values_of_the_reference_recipe() -> None:
    optim = CARD.optim
    assert (optim.learning_rate, optim.warmup_steps, optim.schedule) == (1e-4, 200, "linear")
    assert (optim.betas, optim.eps, optim.weight_decay) == ((0.9, 0.999), 1e-8, 0.0)
    assert (CARD.batch.global_batch_size, CARD.batch.max_per_device_batch_size) == (64, 4)
    assert (CARD.length.num_epochs, CARD.data.seq_len, CARD.data.loss_on) == (3, 1024, "all")
    assert (CARD.model.dtype, CARD.model.activation_checkpointing) == ("bfloat16", True)
    assert (CARD.checkpoint.keep, CARD.evaluation.every_steps) == (3, 100)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "give exactly one of `id` and `scratch`"),
        ({"id": "x", "scratch": ScratchModel()}, "give exactly one of `id` and `scratch`"),
        ({"scratch": ScratchModel(), "gguf_file": "w.gguf"}, "there is no `id`"),
        ({"scratch": ScratchModel(), "tokenizer": "x"}, "trains its own tokenizer"),
        ({"id": "x", "dtype": "float16"}, "bfloat16"),
    ],
)
def test_models_that_contradict_themselves_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelRecipe(**model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        {"format": "chat_template", "eos": "literal"},
        {"source": "a.jsonl", "hf_config": "x"},
        {"source": "a.jsonl", "hf_split": "test"},
        {"sources": [{"source": "a.jsonl", "hf_config": "x"}]},
        {"sources": [{"source": "hf:a"}], "hf_split": "test"},
        {"near_duplicates": "ignore", "near_duplicate_threshold": 0.7},
    ],
)
def test_data_settings_without_an_effect_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"(has|have) no effect"):
        DataRecipe.model_validate_json(json.dumps(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "a.jsonl", "sources": [{"source": "b.jsonl"}]}, "`source` or `sources`, not both"),
        (
            {"sources": [{"source": "a.jsonl"}, {"source": "a.jsonl"}]},
            "two sources are called 'a.jsonl'",
        ),
        ({"sources": [{"source": "a", "name": "n"}, {"source": "b", "name": "n"}]}, "are called 'n'"),
        ({"sources": [{"source": "a.jsonl", "weight": 0}]}, "greater than 0"),
        ({"source": "a.jsonl", "validation": "b.jsonl", "validation_share": 0.1}, "not both"),
        ({"source": "a.jsonl", "validation": "a.jsonl"}, "two sources are called 'a.jsonl'"),
        ({"source": "a.jsonl", "validation": {"source": "b.jsonl", "weight": 2}}, "has no `weight`"),
        ({"sources": [{"source": "a.jsonl", "weight": 1e9}]}, "less than or equal to 1000"),
        ({"near_duplicate_threshold": 0.2}, "greater than or equal to 0.5"),
        ({"max_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_mixtures_that_contradict_themselves_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataRecipe.model_validate_json(json.dumps(data))


def test_one_source_and_several_have_one_form() -> None:
    short = DataRecipe(source="hf:conversations", hf_config="en", hf_split="dev")
    assert short.mixture == (SourceRecipe(source="hf:conversations", hf_config="en", hf_split="dev"),)
    several = (SourceRecipe(source="a.jsonl"), SourceRecipe(source="b/", name="books", weight=2.5))
    assert DataRecipe(sources=several).mixture == several
    assert [source.title for source in several] == ["a.jsonl", "books"]
    assert DataRecipe().mixture == ()


def test_a_bound_on_lost_steps_must_be_attainable() -> None:
    CheckpointRecipe(every_steps=10, max_lost_steps=10)
    with pytest.raises(ValidationError, match="write at least 10"):
        CheckpointRecipe(every_steps=10, max_lost_steps=9)
    with pytest.raises(ValidationError, match="has no effect without `asynchronous`"):
        CheckpointRecipe(every_steps=10, max_lost_steps=10, asynchronous=False)


@pytest.mark.parametrize("length", [{}, {"num_epochs": 1.0, "max_steps": 1}])
def test_a_length_is_epochs_or_steps(length: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="give exactly one of `num_epochs` and `max_steps`"):
        LengthRecipe(**length)  # type: ignore[arg-type]


def test_values_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CARD.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Batch.model_validate(
            {
                "seq_len": 1,
                "per_device_batch_size": 1,
                "gradient_accumulation_steps": 1,
                "world_size": 1,
                "global_batch_size": 1,
                "x": 1,
            }
        )


def test_a_digest_is_that_of_the_value_not_of_the_order_of_keys() -> None:
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    assert len(digest_json({})) == 32


def test_every_contract_takes_its_own_json() -> None:
    assert Recipe.model_validate_json(CARD.to_json()) == CARD
    assert issubclass(Recipe, Contract)


@pytest.mark.parametrize("written", ["v.jsonl", {"source": "v.jsonl"}, ["v.jsonl"], [{"source": "v.jsonl"}]])
def test_an_own_validation_split_is_written_like_sources_and_takes_no_share(written: object) -> None:
    data = DataRecipe.model_validate_json(json.dumps({"source": "a.jsonl", "validation": written}))
    assert data.validation == (SourceRecipe(source="v.jsonl"),)
    assert data.validation_share == 0
    assert data.has_validation
    assert data.all_sources == (*data.validation, *data.mixture)
    assert DataRecipe.model_validate_json(data.model_dump_json()) == data
    assert DataRecipe(source="a.jsonl").validation_share == 0.05
    assert not DataRecipe(source="a.jsonl", validation_share=0).has_validation
