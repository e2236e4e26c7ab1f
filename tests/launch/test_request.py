"""What the options of the command line make of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import Fsdp
from gemfit_launch.planning.request import Request


def strategy_of(**changes: object) -> dict[str, object]:
    return dumped(Request(name="debug/cpu-tiny", **changes))  # type: ignore[arg-type]


def dumped(request: Request) -> dict[str, object]:
    """The strategy, without the degree of sequence parallelism, which is 1."""
    found = request.recipe().strategy.model_dump()
    assert found.pop("sequence_parallel") == 1
    return found


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: {{id: some/model}}\n{text}")
    return str(path)


def test_options_win_over_set_and_set_wins_over_the_file() -> None:
    request = Request(
        name="debug/cpu-tiny", settings=("seed=7", "data.seq_len=64", "data.seq_len=128"), seed=9
    )
    recipe = request.recipe()
    assert (recipe.seed, recipe.data.seq_len) == (9, 128)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single", {"kind": "single"}),
        ("ddp", {"kind": "ddp"}),
        ("fsdp2", {"kind": "fsdp2", "reshard_after_forward": True, "offload": False, "replicate": 1}),
        ("zero1", {"kind": "deepspeed", "stage": 1, "offload_optimizer": False, "offload_params": False}),
        ("zero3", {"kind": "deepspeed", "stage": 3, "offload_optimizer": False, "offload_params": False}),
    ],
)
def test_a_strategy_has_a_short_name(name: str, expected: dict[str, object]) -> None:
    assert strategy_of(strategy=name) == expected


def test_another_strategy_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    name = write(tmp_path, "strategy: {kind: deepspeed, stage: 1}\n")
    assert Request(name=name, strategy="fsdp2").recipe().strategy.kind == "fsdp2"


@pytest.mark.parametrize(("other", "degree"), [("fsdp2", 4), ("zero3", 4), ("single", 1)])
def test_another_strategy_of_many_ranks_keeps_the_degree_of_sequence_parallelism(
    tmp_path: Path, other: str, degree: int
) -> None:
    name = write(tmp_path, "strategy: {kind: ddp, sequence_parallel: 4}\n")
    assert Request(name=name, strategy=other).recipe().strategy.sequence_parallel == degree
    given = Request(name="debug/cpu-tiny", settings=("strategy.sequence_parallel=4",), strategy=other)
    if degree == 1:
        with pytest.raises(UserError, match=r"strategy.sequence_parallel: .*expected 1"):
            given.recipe()
    else:
        assert given.recipe().strategy.sequence_parallel == degree


def test_offload_alone_applies_to_the_strategy_of_the_recipe(tmp_path: Path) -> None:
    name = write(tmp_path, "strategy: {kind: deepspeed, stage: 3}\n")
    assert dumped(Request(name=name, offload=True)) == {
        "kind": "deepspeed",
        "stage": 3,
        "offload_optimizer": True,
        "offload_params": True,
    }


def test_offload_keeps_what_else_the_recipe_says_about_its_strategy(tmp_path: Path) -> None:
    name = write(tmp_path, "strategy: {kind: fsdp2, reshard_after_forward: false}\n")
    strategy = dumped(Request(name=name, offload=True))
    assert strategy == {"kind": "fsdp2", "reshard_after_forward": False, "offload": True, "replicate": 1}


def test_a_setting_refines_the_strategy_of_the_option(tmp_path: Path) -> None:
    name = write(tmp_path, "strategy: ddp\n")
    settings = ("strategy.replicate=node", "strategy.reshard_after_forward=false")
    strategy = Request(name=name, strategy="fsdp2", settings=settings).recipe().strategy
    assert strategy == Fsdp(replicate="node", reshard_after_forward=False)


@pytest.mark.parametrize(("strategy", "kind"), [("ddp", "ddp"), ("zero3", "deepspeed"), (None, "single")])
def test_a_setting_of_another_strategy_is_refused_by_name(
    tmp_path: Path, strategy: str | None, kind: str
) -> None:
    name = write(tmp_path, "strategy: single\n")
    with pytest.raises(UserError, match=f"strategy.replicate is not a setting of {kind}, only of fsdp2"):
        Request(name=name, strategy=strategy, settings=("strategy.replicate=2",)).recipe()


def test_offload_without_anything_to_offload_is_refused_with_what_has() -> None:
    with pytest.raises(UserError, match="--offload: strategy ddp has nothing to offload; use fsdp2, zero1"):
        Request(name="debug/cpu-tiny", offload=True).recipe()


def test_a_mistake_in_an_option_names_the_option() -> None:
    with pytest.raises(UserError, match=r"--set optim\.learning_rate=fast: optim\.learning_rate: "):
        Request(name="debug/cpu-tiny", settings=("optim.learning_rate=fast",)).recipe()


def test_arguments_give_the_same_request_again() -> None:
    request = Request(name="a", settings=("x=1", "y=2"), data="d", strategy="zero2", offload=True, seed=3)
    assert request.arguments() == (
        [
            "a",
            "--set",
            "x=1",
            "--set",
            "y=2",
            "--data",
            "d",
            "--strategy",
            "zero2",
            "--seed",
            "3",
            "--offload",
        ]
    )


@pytest.mark.parametrize(
    ("name", "folder"), [("gemma3/1b-reference", "gemma3-1b-reference"), ("/x/mine.yaml", "mine")]
)
def test_a_run_folder_is_named_after_its_recipe(name: str, folder: str) -> None:
    assert Request(name=name).name_for_folder == folder


def test_all_mistakes_of_a_file_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    name = write(tmp_path, "data:\n  seq_len: long\n  formt: x\noptim: {schedule: lineer}\n")
    with pytest.raises(UserError) as refused:
        Request(name=name).recipe()
    lines = sorted(line.partition("mine.yaml:")[2] for line in str(refused.value).splitlines())
    assert [line[0] for line in lines] == ["3", "4", "5"]
    assert "did you mean 'format'" in lines[1]
    assert "did you mean 'linear'" in lines[2]


def test_the_recipe_of_a_request_is_a_recipe() -> None:
    assert isinstance(Request(name="gemma3/1b-reference").recipe(), Recipe)


def test_data_on_the_command_line_replaces_every_source_of_the_recipe(tmp_path: Path) -> None:
    name = write(tmp_path, "data: {sources: [{source: a.jsonl}, {source: b.jsonl, weight: 2}]}\n")
    assert Request(name=name).recipe().data.label == "a.jsonl, b.jsonl x 2"
    assert Request(name=name, data="c.jsonl").recipe().data.label == "c.jsonl"
