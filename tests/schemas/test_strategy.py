"""The four strategies and their short names."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from gemfit.schemas.strategy import STRATEGY_NAMES, Ddp, DeepSpeed, Fsdp, Single, Strategy, strategy_from_name

ADAPTER: TypeAdapter[Single | Ddp | Fsdp | DeepSpeed] = TypeAdapter(Strategy)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_short_name_is_the_label_of_what_it_stands_for(name: str) -> None:
    assert ADAPTER.validate_python(name).label == name


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_only_single_minds_the_number_of_ranks(name: str) -> None:
    strategy = ADAPTER.validate_python(name)
    assert strategy.problems(1, 1) == []
    assert bool(strategy.problems(2, 1)) == (name == "single")


@pytest.mark.parametrize("name", ["fsdp2", "zero1", "zero2", "zero3"])
def test_offload_shows_in_the_label(name: str) -> None:
    assert ADAPTER.validate_python(strategy_from_name(name, offload=True)).label == f"{name}+offload"


@pytest.mark.parametrize("name", ["single", "ddp"])
def test_what_shards_nothing_has_nothing_to_offload(name: str) -> None:
    with pytest.raises(ValueError, match=f"strategy {name} has nothing to offload"):
        strategy_from_name(name, offload=True)


def test_parameters_are_offloaded_under_stage_three_only() -> None:
    (problem,) = DeepSpeed(stage=2, offload_params=True).problems(2, 1)
    assert "needs ZeRO stage 3, not 2" in problem
    assert DeepSpeed(stage=3, offload_params=True).problems(2, 1) == []


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_every_strategy_says_what_proves_it(name: str) -> None:
    engine = ADAPTER.validate_python(name).engine
    assert (engine.zero_stage is not None) == name.startswith("zero")
    assert (engine.parameter_class == "DTensor") == (name == "fsdp2")


def test_the_proofs_of_all_strategies_differ() -> None:
    engines = [ADAPTER.validate_python(name).engine for name in STRATEGY_NAMES]
    assert all(a != b for i, a in enumerate(engines) for b in engines[:i])


@pytest.mark.parametrize(
    ("replicate", "world_size", "nodes", "copies"),
    [(1, 4, 1, 1), (2, 4, 1, 2), ("node", 16, 2, 2), ("node", 8, 1, 1), (4, 16, 2, 4), ("node", 1, 1, 1)],
)
def test_copies_of_a_sharded_model(
    replicate: int | Literal["node"], world_size: int, nodes: int, copies: int
) -> None:
    strategy = Fsdp(replicate=replicate)
    assert strategy.problems(world_size, nodes) == []
    assert strategy.replicas(nodes) == copies
    assert strategy.label == ("fsdp2" if replicate == 1 else "hsdp")


@pytest.mark.parametrize(
    ("replicate", "world_size", "nodes", "way_out"),
    [
        (3, 4, 1, "write 1 or 2"),
        (4, 4, 1, "1 or 2, or use ddp"),
        ("node", 4, 4, "or use ddp"),
        (2, 1, 1, "write 1"),
    ],
)
def test_a_copy_needs_equal_shards_on_two_ranks_or_more(
    replicate: int | Literal["node"], world_size: int, nodes: int, way_out: str
) -> None:
    (problem,) = Fsdp(replicate=replicate).problems(world_size, nodes)
    assert problem.startswith(f"strategy.replicate is {replicate}")
    assert way_out in problem


@pytest.mark.parametrize("name", [name for name in STRATEGY_NAMES if name != "fsdp2"])
def test_only_fsdp2_has_copies(name: str) -> None:
    with pytest.raises(ValidationError, match="replicate"):
        ADAPTER.validate_python(strategy_from_name(name) | {"replicate": 2})


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="'zero4' is not a strategy; choose from single, ddp"):
        strategy_from_name("zero4")
