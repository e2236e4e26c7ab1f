"""The system message of a training is counted in its data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from gemfit.errors import UserError
from gemfit.evaluate import system_prompt
from gemfit.evaluate.system_prompt import is_dominant, system_prompts
from gemfit.schemas.recipe_data import DataRecipe

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
COLUMNS = {"system": "persona", "prompt": "question", "completion": "answer"}


def lines(*systems: str | None, role: str = "system") -> bytes:
    turns = [{"role": "user", "content": 'I said "system".'}, {"role": "assistant", "content": "b"}]
    first = [[] if system is None else [{"role": role, "content": system}] for system in systems]
    return b"".join(json.dumps({"messages": [*start, *turns]}).encode() + b"\n" for start in first)


def test_every_form_of_file_and_of_the_role_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines("x", None, "y") + b"\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines("y", "y", role="developer")))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines("z") + b'{broken "system"\n'))
    found = system_prompts(DataRecipe(source=str(tmp_path)))
    assert (found.most_common, found.count, found.distinct) == ("y", 3, 3)
    assert (found.with_system, found.conversations, found.is_sample) == (5, 7, False)
    assert found.dominant is None


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ({"system": "x", "messages": [USER, ASSISTANT]}, {}),
        ({"conversations": [{"from": "system", "value": "x"}, *SHAREGPT]}, {}),
        ({"conversations": SHAREGPT, "system": "x"}, {}),
        ({"instruction": "a", "output": "b", "system": "x"}, {}),
        ({"persona": "x", "question": "a", "answer": "b"}, {"columns": COLUMNS}),
        (
            {"messages": [{"role": "setting", "content": "x"}, USER, ASSISTANT]},
            {"roles": {"setting": "system"}},
        ),
    ],
)
def test_every_form_of_data_is_counted(tmp_path: Path, line: dict[str, Any], data: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line) + "\n")
    found = system_prompts(DataRecipe(source=str(path), **data))
    assert (found.dominant, found.with_system) == ("x", 1)


def test_one_message_before_half_of_all_is_dominant(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines("x", "x", None, "y"))
    assert system_prompts(DataRecipe(source=str(path))).dominant == "x"
    path.write_bytes(lines(None, None))
    assert system_prompts(DataRecipe(source=str(path))).most_common is None


def test_of_much_data_the_same_number_of_every_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_prompt, "MOST_CONVERSATIONS", 4)
    (tmp_path / "a.jsonl").write_bytes(lines("x", "x", "y", "y", "y"))
    (tmp_path / "b.jsonl").write_bytes(lines("z"))
    found = system_prompts(DataRecipe(source=str(tmp_path)))
    assert (found.most_common, found.conversations, found.is_sample) == ("x", 3, True)


def test_data_that_is_gone_or_on_a_hub_is_not_guessed_at(tmp_path: Path) -> None:
    for source in (str(tmp_path / "gone.jsonl"), "hf:someone/conversations"):
        with pytest.raises(UserError):
            system_prompts(DataRecipe(source=source))


def test_a_text_is_the_system_prompt_of_at_least_half_and_not_of_one_in_two() -> None:
    asked = [(1, 1), (1, 2), (2, 2), (2, 4), (2, 5), (0, 0)]
    assert [is_dominant(*one) for one in asked] == [True, False, True, True, False, False]
