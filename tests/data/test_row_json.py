"""Rows of tables as JSON: padding of structs is left out, nulls that were written stay or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from gemfit.data.jsonl.hub_stream import hub_lines
from gemfit.data.jsonl.inputs import lines_of
from gemfit.data.jsonl.line_parser import read_line
from gemfit.data.jsonl.row_json import row_line
from gemfit.data.pack.reader import read_manifest
from gemfit.errors import UserError
from gemfit.schemas.pack_job import JobSource

from .conftest import Build

CALL_FREE = {"role": "user", "content": "a"}
CALL = {"name": "f", "arguments": {"city": "Bern", "limit": None}}
OTHER_CALL = {"name": "g", "arguments": {}}
TOOL = {"function": {"name": "f", "parameters": {"a": {"type": "string", "default": None}}}}
OTHER_TOOL = {"function": {"name": "g", "parameters": {}}}
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [
            {"role": "user", "content": "b", "name": "x"},
            {"role": "assistant", "content": "c", "tool_calls": [{"function": OTHER_CALL}]},
        ],
        "tools": [OTHER_TOOL],
    },
]
as_json = datasets.Features(
    {"messages": datasets.List(datasets.Json()), "tools": datasets.List(datasets.Json())}
)


def read(folder: Path, **source: Any) -> list[Any]:
    lines = hub_lines(JobSource(name="x", hub=str(folder), **source))
    return [json.loads(line) for line in lines]


def write_jsonl(folder: Path) -> None:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_parquet_of_json(folder: Path) -> None:
    datasets.Dataset.from_list(ROWS, features=as_json).to_parquet(folder / "a.parquet")


def write_saved(folder: Path) -> None:
    datasets.Dataset.from_list(ROWS, features=as_json).save_to_disk(folder)


@pytest.mark.parametrize("write", [write_jsonl, write_parquet_of_json, write_saved])
def test_json_columns_are_kept_to_the_last_null(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    assert read(tmp_path) == ROWS


def write_structs(folder: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")


def test_padding_of_structs_is_left_out(tmp_path: Path) -> None:
    text = [{**row, "tools": None} for row in ROWS]
    for row in text:
        for message in row["messages"]:
            for call in message.get("tool_calls") or ():
                call["function"] = {**call["function"], "arguments": json.dumps(CALL["arguments"])}
    write_structs(tmp_path, text)
    first, second = read(tmp_path)
    assert first["messages"][0] == {"role": "user", "content": "a"}
    assert first["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bern", "limit": null}'
    assert second["messages"][0] == {"role": "user", "content": "b", "name": "x"}
    assert first["tools"] is None


def test_nulls_and_odd_numbers_of_metadata_are_of_no_interest(tmp_path: Path) -> None:
    metadata = [{"parameters": {"top": 1.0, "seed": None}}, {"parameters": {"top": float("nan"), "seed": 1}}]
    write_structs(tmp_path, [{"messages": [CALL_FREE], "run": item} for item in metadata])
    assert [row["messages"] for row in read(tmp_path)] == [[CALL_FREE]] * 2


def test_binary_columns_are_the_text_that_they_hold(tmp_path: Path) -> None:
    write_structs(tmp_path, [{"prompt": "é".encode(), "completion": b"\xff"}])
    assert read(tmp_path) == [{"prompt": "é", "completion": {"bytes": 1}}]


def test_a_type_that_json_lacks_is_refused_under_arguments(tmp_path: Path) -> None:
    calls = [{"name": "f", "arguments": {"price": Decimal("1.10")}}]
    write_structs(tmp_path, [{"messages": [{"role": "assistant", "tool_calls": calls}]}])
    (line,) = hub_lines(JobSource(name="x", hub=str(tmp_path)))
    with pytest.raises(UserError, match=r"arguments\.price is of the type Decimal, which JSON does not have"):
        read_line(line.rstrip(b"\n"), "x:1")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pyarrow.parquet.write_table(
        pa.Table.from_arrays(columns, names=["prompt", "completion", "completion"]), path
    )
    with pytest.raises(UserError, match="it has the column 'completion' twice"):
        list(lines_of(path))


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input_schema", "response"])
def test_a_null_in_a_struct_of_arguments_is_refused_by_its_place(key: str, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "assistant", "content": "x"}], "tools": [{"function": {key: value}}]}
        for value in ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}})
    ]
    write_structs(tmp_path, rows)
    first, second = hub_lines(JobSource(name="x", hub=str(tmp_path)))
    assert json.loads(first) == rows[0]
    with pytest.raises(UserError, match=rf"^x:2: tools\[0\]\.function\.{key}\.a\.c is null in a struct"):
        read_line(second.rstrip(b"\n"), "x:2")
    write_structs(tmp_path, rows[:1])
    assert read(tmp_path) == rows[:1]


def test_a_number_that_json_lacks_is_refused_under_arguments_only(tmp_path: Path) -> None:
    nan = float("nan")
    tools = [{"function": {"name": "f", "parameters": {"most": nan}}}]
    write_structs(tmp_path, [{"score": nan, "tools": None}, {"score": 1.0, "tools": tools}])
    first, second = hub_lines(JobSource(name="x", hub=str(tmp_path)))
    assert json.loads(first)["score"] is None
    with pytest.raises(UserError, match=r"^x:2: tools\[0\]\.function\.parameters\.most is nan, which JSON"):
        read_line(second.rstrip(b"\n"), "x:2")


@pytest.mark.parametrize("prefix", ["hf:", ""])
def test_a_row_with_such_a_null_is_one_bad_line(prefix: str, build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": f"word {number}"},
            ],
            "tools": [{"function": {"name": "f", "parameters": {"a": 1, "b": None if number == 7 else 2}}}],
        }
        for number in range(30)
    ]
    write_structs(folder, rows)
    source = f"{prefix}{folder}"
    status, said = build(source)
    assert status == 2
    assert ":8: tools[0].function.parameters.b is null in a struct" in said
    assert build(source, on_error="skip", validation_share=0)[0] == 0
    (rejected,) = map(json.loads, (tmp_path / "pack/rejected.jsonl").read_text().splitlines())
    assert rejected["line"] == 8
    assert read_manifest(tmp_path / "pack").splits["train"].conversations == 29


def test_integers_above_64_bits_are_kept() -> None:
    row = {"messages": [{"role": "user", "content": "é", "number": 10**30}]}
    line = row_line(row, None)
    assert json.loads(line) == row
    assert line.count(b"\n") == 1


def test_a_saved_dict_of_datasets_is_read_by_its_split(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS, features=as_json)
    datasets.DatasetDict({"train": saved, "dev": saved.select([1])}).save_to_disk(tmp_path)
    assert read(tmp_path) == ROWS
    assert read(tmp_path, hf_split="dev") == ROWS[1:]
    with pytest.raises(UserError, match="its splits are train, dev"):
        read(tmp_path, hf_split="test")
    with pytest.raises(UserError, match="has no configurations"):
        read(tmp_path, hf_config="de")
