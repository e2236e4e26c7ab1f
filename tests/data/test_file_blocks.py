"""Every kind of input file gives the same lines."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from gemfit.data.jsonl import blocks, line_blocks
from gemfit.data.jsonl.file_blocks import file_blocks
from gemfit.data.jsonl.inputs import all_lines, lines_of
from gemfit.data.pack.reader import read_manifest
from gemfit.errors import UserError
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.schemas.source_file import digest_file

from .conftest import Build, random_conversations

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f'question {number} "é"\n[{{,'},
            {"role": "assistant", "content": "x" * (number % 97)},
        ]
    }
    for number in range(200)
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "messages", "tools"])
    for row in ROWS:
        writer.writerow(["", json.dumps(row["messages"], indent=1), ""])
    return text.getvalue().encode()


def as_parquet() -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: JSONL,
    "A.JSONL": lambda: JSONL,
    "a.ndjson": lambda: JSONL,
    "a.json": lambda: JSONL,
    "array.json": lambda: json.dumps(ROWS).encode(),
    "pretty.JSON": lambda: b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "a.csv": as_csv,
    "bom.csv": lambda: b"\xef\xbb\xbf" + as_csv(),
    "a.parquet": as_parquet,
    "odd [x] {1}*?.parquet": as_parquet,
    "parquet.jsonl": as_parquet,
    "a.jsonl.gz": lambda: gzip.compress(JSONL),
    "a.gz": lambda: gzip.compress(JSONL),
    "array.json.bz2": lambda: bz2.compress(json.dumps(ROWS).encode()),
    "a.csv.xz": lambda: lzma.compress(as_csv()),
    "a.ndjson.ZST": lambda: zstandard.compress(JSONL),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("block_bytes", [2**11, 2**23])
def test_all_kinds_give_the_same_rows(
    name: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocks, line_blocks):
        monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    found = [json.loads(line) for line in lines_of(path)]
    assert [row["messages"] for row in found] == [row["messages"] for row in ROWS]
    made = list(file_blocks(digest_file(path), 3, 7))
    assert [block.number for block in made] == list(range(7, 7 + len(made)))
    assert sum(block.disk_bytes for block in made) == path.stat().st_size
    assert (len(made) > 1) == (block_bytes == 2**11)


@pytest.mark.parametrize(
    ("name", "places"), [("a.jsonl", ["a.jsonl:1", "a.jsonl:2"]), ("a.json", ["a.json[0]", "a.json[1]"])]
)
def test_elements_of_an_array_have_places_of_their_own(
    name: str, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(JSONL if name.endswith("l") else json.dumps(ROWS).encode())
    recipe = Recipe(model=ModelRecipe(scratch=ScratchModel()), data=DataRecipe(source=name))
    found = [place for place, _ in all_lines(make_pack_job(recipe))]
    assert found[:2] == places
    assert len(found) == len(ROWS)


def lines_until_error(path: Path) -> tuple[list[Any], str]:
    found: list[Any] = []
    try:
        for line in lines_of(path):
            found.append(line)
    except UserError as error:
        return found, str(error)
    pytest.fail("no error")


@pytest.mark.parametrize(
    ("text", "rows", "error"),
    [
        (b"messages,id,messages\n[],1,[]\n", 0, "the first row has the column 'messages' twice"),
        (b"", 0, "is empty"),
        (b'messages\n[]\n"[\n', 1, ":2: is not valid CSV, with commas: unexpected end of data"),
        (b"messages\n[]\n\xff\n", 0, "is not UTF-8"),
    ],
)
def test_a_malformed_csv_is_named(text: bytes, rows: int, error: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    found, said = lines_until_error(path)
    assert len(found) == rows
    assert error in said


def test_a_csv_row_of_too_many_fields_is_one_bad_line(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        good = [[json.dumps(row["messages"])] for row in random_conversations(9)]
        csv.writer(stream).writerows([["messages"], ["a", "b", "c"], [], *good])
    status, said = build(path)
    assert (status, f"error: {path}:1: has 3 fields, and the header 1" in said) == (2, True), said
    assert build(path, on_error="skip", validation_share=0)[0] == 0
    (rejected,) = map(json.loads, (tmp_path / "pack/rejected.jsonl").read_text().splitlines())
    assert (rejected["line"], rejected["reason"]) == (1, "has 3 fields, and the header 1")
    losses = read_manifest(tmp_path / "pack").losses
    assert (losses.lines_read, losses.blank_lines, losses.rejected_lines) == (11, 1, 1)


def test_a_rejected_element_of_an_array_is_listed_by_its_index(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*random_conversations(9), {"messages": []}], indent=1))
    assert f"error: {path}[9]: " in build(path)[1]
    assert build(path, on_error="skip", validation_share=0)[0] == 0
    (rejected,) = map(json.loads, (tmp_path / "pack/rejected.jsonl").read_text().splitlines())
    assert (rejected["place"], rejected["line"]) == (f"{path}[9]", 10)


def test_text_that_is_no_json_stays_text_and_digits_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('messages,note\n"[{""n"": 123456789012345678901234567890, ""f"": 1.10}]",[x\n')
    assert list(lines_of(path)) == [
        b'{"messages":[{"n": 123456789012345678901234567890, "f": 1.10}],"note":"[x"}'
    ]


def test_the_header_of_a_csv_is_its_first_row_and_an_empty_field_is_null(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\nquestion,answer,persona\nq,a,\n,b,c\n")
    assert list(map(json.loads, lines_of(path))) == [
        {"question": "q", "answer": "a", "persona": None},
        {"question": None, "answer": "b", "persona": "c"},
    ]


def test_columns_of_any_form_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        rows = [["prompt", "completion", "weight", "id"], ['[{"role":"user"}]', "[1]", "0", "1"]]
        csv.writer(stream).writerows([*rows, ['{"a": 1}', "x", "True", "0"]])
    assert [*map(json.loads, lines_of(path))] == [
        {"prompt": [{"role": "user"}], "completion": "[1]", "weight": 0, "id": "1"},
        {"prompt": '{"a": 1}', "completion": "x", "weight": True, "id": "0"},
    ]


def test_parquet_columns_of_types_that_datasets_does_not_know_are_read(tmp_path: Path) -> None:
    counts = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
    messages = pa.array([[{"role": "user", "content": "a", "name": None}]])
    pyarrow.parquet.write_table(pa.table({"messages": messages, "counts": counts}), tmp_path / "a.parquet")
    (line,) = map(json.loads, lines_of(tmp_path / "a.parquet"))
    assert line == {"messages": [{"role": "user", "content": "a"}], "counts": [["a", 1]]}


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet()[:-9])
    assert "a.parquet:1: cannot be read as Parquet" in lines_until_error(path)[1]


def test_json_columns_of_parquet_are_what_was_stored(tmp_path: Path) -> None:
    features = datasets.Features({"messages": datasets.List(datasets.Json())})
    row = {"messages": [{"role": "user", "content": "a", "x": {"limit": None}}, {"role": "assistant"}]}
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "a.parquet")
    assert [json.loads(line) for line in lines_of(tmp_path / "a.parquet")] == [row]


@pytest.mark.parametrize("name", ["array.json.bz2", "a.csv.xz"])
def test_a_compressed_array_or_table_that_breaks_off_is_an_error(name: str, tmp_path: Path) -> None:
    path, whole = tmp_path / name, FILES[name]()
    for offset in range(20, len(whole), 211):
        path.write_bytes(whole[:offset])
        assert "is the file complete?" in lines_until_error(path)[1], offset
