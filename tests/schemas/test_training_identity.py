"""Training identity, and messages about its changes."""

from __future__ import annotations

from typing import Any

import pytest

from gemfit.errors import UserError
from gemfit.schemas.batch import make_batch
from gemfit.schemas.plan import PackReference, Plan, Steps, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.training_identity import changes, check_changes, check_known_keys, flatten


def plan_of(recipe: dict[str, Any], *, ranks: int = 2, fingerprint: str = "f") -> Plan:
    return Plan(
        recipe=Recipe.model_validate({"model": {"id": "some/model"}, **recipe}, strict=False),
        site=None,
        topology=Topology(nodes=1, ranks_per_node=ranks, device="cpu"),
        batch=make_batch(global_batch_size=64, max_per_device_batch_size=4, world_size=ranks, seq_len=1024),
        steps=Steps(rows=10, rows_are="packed", per_epoch=1.25, total=4, warmup_share=50.0),
        pack=PackReference(fingerprint=fingerprint, folder="/packs/f"),
        accelerate={},
        deepspeed=None,
        command=("true",),
        env={},
        versions={},
        warnings=(),
    )


HOW_ALONE: list[dict[str, Any]] = [
    {"strategy": "zero3"},
    {"description": "other words"},
    {"data": {"source": "moved.jsonl"}},
    {"batch": {"max_per_device_batch_size": 1}},
    {"model": {"id": "some/model", "attention": "eager", "activation_checkpointing": False}},
    {"checkpoint": {"every_steps": 7}},
    {"evaluation": {"every_steps": 7}},
    {"tracking": {"report_to": []}},
]
WHAT: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed: was 42, is 1"),
    ({"optim": {"betas": [0.9, 0.95]}}, "optim.betas: was [0.9, 0.999], is [0.9, 0.95]"),
    ({"batch": {"global_batch_size": 32}}, "batch.global_batch_size: was 64, is 32"),
    ({"length": {"max_steps": 9}}, "length.num_epochs: was 3.0, is null"),
    ({"data": {"loss_on": "assistant"}}, "data.loss_on: was all, is assistant"),
    ({"model": {"id": "other/model"}}, "model.id: was some/model, is other/model"),
    ({"model": {"id": "some/model", "lora": {"rank": 4}}}, "model.lora.rank: was null, is 4"),
    ({"model": {"id": "some/model", "dtype": "float32"}}, "model.dtype: was bfloat16, is float32"),
]


@pytest.mark.parametrize("recipe", HOW_ALONE)
def test_how_a_model_is_trained_is_no_part_of_what_is_trained(recipe: dict[str, Any]) -> None:
    assert plan_of(recipe) != plan_of({})
    assert plan_of(recipe).training_identity() == plan_of({}).training_identity()


def test_the_number_of_ranks_is_no_part_of_what_is_trained() -> None:
    assert plan_of({}, ranks=3).training_identity() == plan_of({}).training_identity()


@pytest.mark.parametrize(("recipe", "printed"), WHAT)
def test_what_is_trained_is_compared_key_by_key(recipe: dict[str, Any], printed: str) -> None:
    found = changes(plan_of({}).training_identity(), plan_of(recipe).training_identity())
    assert printed in [str(change) for change in found]


def test_data_counts_by_its_content() -> None:
    (change,) = changes(plan_of({}).training_identity(), plan_of({}, fingerprint="g").training_identity())
    assert str(change) == "pack.fingerprint: was f, is g"


def test_a_change_is_refused_with_the_difference_and_the_options_that_allow_it() -> None:
    was, now = {"seed": 1, "optim.eps": 1e-8}, {"seed": 2, "optim.eps": 1e-7}
    with pytest.raises(UserError) as caught:
        check_changes(was, now, allowed=(), place="runs/a")
    assert str(caught.value) == (
        "runs/a: this would change what is trained:\n  seed: was 1, is 2\n  optim.eps: was 1e-08, is 1e-07\n"
        "resume without these changes, allow them with --allow-changed seed --allow-changed optim.eps, "
        "or begin a new run"
    )


def test_allowed_changes_are_named_by_key_or_by_the_beginning_of_one() -> None:
    was, now = {"seed": 1, "optim.eps": 1e-8}, {"seed": 2, "optim.eps": 1e-7}
    check_changes(was, now, allowed=("seed", "optim"), place="")
    with pytest.raises(UserError, match=r"optim\.eps") as caught:
        check_changes(was, now, allowed=("seed", "opt"), place="")
    assert "seed" not in str(caught.value)


def test_an_unknown_key_cannot_be_allowed() -> None:
    check_known_keys(["optim", "seed"], ["optim.eps", "seed"])
    with pytest.raises(UserError, match=r"--allow-changed sede: .*; did you mean 'seed'"):
        check_known_keys(["sede"], ["optim.eps", "seed"])


def test_flattening_keeps_lists_and_nothing_whole() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}], "d": None}, "e": 3}) == {
        "a.b": [1, {"c": 2}],
        "a.d": None,
        "e": 3,
    }


def test_true_is_not_one() -> None:
    assert [change.key for change in changes({"a": 1}, {"a": True})] == ["a"]
