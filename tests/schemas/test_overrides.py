"""Validation, ``--set``, and messages that name place, value and way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.config.overrides import build, with_settings
from gemfit.config.yaml_source import parse
from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import SourceRecipe
from gemfit.schemas.recipe_training import LengthRecipe
from gemfit.schemas.strategy import DeepSpeed, Fsdp

BASE = "model: {id: some/model}\n"


def recipe(text: str = "", *settings: str) -> Recipe:
    return build(Recipe, with_settings(Recipe, parse(BASE + text, "r.yaml"), settings))


def mistakes(text: str, *settings: str) -> list[str]:
    with pytest.raises(UserError) as refused:
        recipe(text, *settings)
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optin: {}\n", "r.yaml:2: optin is not a setting; did you mean 'optim'?"),
        (
            "optim:\n  lerning_rate: 1\n",
            "r.yaml:3: optim.lerning_rate is not a setting; did you mean 'learning_rate'?",
        ),
        (
            "data:\n  sources:\n    - source: a.jsonl\n      wieght: 2\n",
            "r.yaml:5: data.sources.0.wieght is not a setting; did you mean 'weight'?",
        ),
        (
            "batch: {zzz: 1}\n",
            "r.yaml:2: batch.zzz is not a setting; valid: global_batch_size, max_per_device_batch_size",
        ),
        ("optim:\n  schedule: lineer\n", "r.yaml:3: optim.schedule: expected 'linear'"),
        (
            "optim: {learning_rate: fast}\n",
            'r.yaml:2: optim.learning_rate: input should be a valid number, found "fast"',
        ),
        (
            "optim: {learning_rate: -1}\n",
            "r.yaml:2: optim.learning_rate: input should be greater than 0, found -1",
        ),
        ("model: {id: x, activation_checkpointing: no}\n", "write true or false"),
        (
            "batch: {global_batch_size: 1.5}\n",
            "r.yaml:2: batch.global_batch_size: input should be a valid integer",
        ),
        ("data: {seq_len: '1024'}\n", "r.yaml:2: data.seq_len: input should be a valid integer"),
        ("strategy: zero4\n", "r.yaml:2: strategy"),
        ("strategy: {kind: fsdp2, stage: 3}\n", "r.yaml:2: strategy.stage is not a setting"),
        (
            "length: {num_epochs: 1, max_steps: 2}\n",
            "r.yaml:2: length: give exactly one of `num_epochs` and `max_steps`",
        ),
    ],
)
def test_a_mistake_has_its_line_its_value_and_a_way_out(text: str, message: str) -> None:
    source = text if text.startswith("model:") else BASE + text
    with pytest.raises(UserError) as refused:
        build(Recipe, parse(source, "r.yaml"))
    (line,) = str(refused.value).splitlines()
    assert message in line


def test_a_recipe_without_a_model_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"r\.yaml: model is missing"):
        build(Recipe, parse("seed: 1\n", "r.yaml"))


def test_all_mistakes_are_reported_at_once() -> None:
    lines = mistakes("seed: x\nbatch:\n  global_batch_size: 0\n  foo: 1\n")
    assert len(lines) == 3
    assert {line.split(": ")[0] for line in lines} == {"r.yaml:2", "r.yaml:4", "r.yaml:5"}


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert recipe("optim: {learning_rate: 1e-5, eps: 1E-8}\n").optim.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("optim.learning_rate=5e-5", "optim.learning_rate", 5e-5),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("seed=7", "seed", 7),
        ("model.activation_checkpointing=false", "model.activation_checkpointing", False),
        ("optim.betas=[0.8, 0.95]", "optim.betas", (0.8, 0.95)),
        ("tracking.report_to=[]", "tracking.report_to", ()),
        ("data.source=no", "data.source", "no"),
        ("data.source=123", "data.source", "123"),
        ("data.source=a=b.jsonl", "data.source", "a=b.jsonl"),
        ("data.sources=[{source: a.jsonl}]", "data.sources", (SourceRecipe(source="a.jsonl"),)),
        ("data.max_rows=1000", "data.max_rows", 1000),
        ("model.revision=1e5", "model.revision", "1e5"),
        ("model.revision=null", "model.revision", "null"),
        ("model.tokenizer=null", "model.tokenizer", None),
        ("model.lora.rank=4", "model.lora.rank", 4),
        ("description=", "description", ""),
    ],
)
def test_set_reads_a_value_as_the_type_of_its_field(setting: str, path: str, value: object) -> None:
    found: object = recipe("", setting)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr=1", "--set optim.lr=1: optim.lr is not a setting"),
        ("seed.x=1", "--set seed.x=1: seed.x is not a setting"),
        ("seed", "--set seed: write it as key=value"),
        ("=1", "--set =1: write it as key=value"),
        ("seed=x", "--set seed=x: seed: input should be a valid integer"),
        ("data.format=chat", "--set data.format=chat: data.format: expected"),
        ("optim.betas=[0.9", "--set optim.betas=[0.9"),
    ],
)
def test_a_mistake_in_set_names_the_option(setting: str, message: str) -> None:
    (line,) = mistakes("", setting)
    assert line.startswith(message)


def test_set_of_a_strategy_takes_a_short_name_or_a_field() -> None:
    assert recipe("", "strategy=zero3").strategy == DeepSpeed(stage=3)
    assert recipe("strategy: {kind: fsdp2}\n", "strategy.offload=true").strategy == Fsdp(offload=True)


def test_a_null_clears_what_a_parent_has_set() -> None:
    text = "length: {num_epochs: 3}\n"
    assert recipe(text, "length.num_epochs=null", "length.max_steps=20").length.max_steps == 20


def test_a_length_set_here_replaces_the_other_one_but_two_lengths_are_refused() -> None:
    assert recipe("length: {num_epochs: 3}\n", "length.max_steps=20").length == LengthRecipe(max_steps=20)
    assert recipe("length: {max_steps: 3}\n", "length.num_epochs=2").length == LengthRecipe(num_epochs=2)
    (line,) = mistakes("", "length.max_steps=20", "length.num_epochs=2")
    assert "exactly one of" in line


def test_sources_given_on_the_command_line_replace_the_recipes() -> None:
    several = recipe("data: {source: a.jsonl}\n", "data.sources=[{source: b.jsonl, weight: 2.5}]").data
    assert (several.source, several.label) == (None, "b.jsonl x 2.5")
    one = recipe("data: {sources: [{source: a.jsonl}, {source: b.jsonl}]}\n", "data.source=c.jsonl").data
    assert (one.sources, one.label) == ((), "c.jsonl")
    (line,) = mistakes("", "data.source=a.jsonl", "data.sources=[{source: b.jsonl}]")
    assert "give `source` or `sources`, not both" in line


@given(seed=st.integers(0, 2**32 - 1), rate=st.floats(1e-300, 3.4e38))
def test_set_gives_back_the_number_that_was_written(seed: int, rate: float) -> None:
    made = recipe("", f"seed={seed}", f"optim.learning_rate={rate!r}")
    assert (made.seed, made.optim.learning_rate) == (seed, rate)


@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_set_accepts_any_text_for_a_text_field_or_names_the_option(text: str) -> None:
    try:
        message = ""
        assert isinstance(recipe("", f"description={text}").description, str)
    except UserError as error:
        message = str(error)
    assert message == "" or message.startswith("--set description=")


def test_a_suggestion_is_made_only_where_something_is_close() -> None:
    assert did_you_mean("optin", ["optim", "data"]) == "; did you mean 'optim'?"
    assert did_you_mean("zzz", ["optim", "data"]) == ""
