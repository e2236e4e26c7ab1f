"""Arrays of JSON as lines: elements as they are written, broken arrays by place."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl import json_array
from gemfit.data.jsonl.json_array import array_lines
from gemfit.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


class Drip:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._stream, self._size = io.BytesIO(data), size

    def read(self, size: int, /) -> bytes:
        return self._stream.read(self._size)


def read(text: str | bytes, size: int = 1000) -> list[bytes]:
    return list(array_lines(Drip(text.encode() if isinstance(text, str) else text, size), "x.json"))


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 9))
def test_elements_come_back_whatever_the_layout(
    values: list[Any], indent: int | None, ascii: bool, size: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    lines = read(b"\xef\xbb\xbf \n" + text + b" \r\n", size)
    assert [json.loads(line) for line in lines] == values
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)


def test_digits_and_escapes_stay_as_they_are_written() -> None:
    assert read(r'[1.10, 1e3, 12345678901234567890123, "\u00e9\/\\"]') == [
        b"1.10\n",
        b"1e3\n",
        b"12345678901234567890123\n",
        b'"\\u00e9\\/\\\\"\n',
    ]


@pytest.mark.parametrize(
    ("text", "elements", "error"),
    [
        ('[{"a": 1}, {"b"', 1, r"x\.json\[1\]: is cut off.*not closed"),
        ('[{"a": 1}, ', 1, r"x\.json\[1\]: is cut off"),
        ("[", 0, r"x\.json\[0\]: is cut off"),
        ('["a\nb"]', 0, r"x\.json\[0\]: holds a line break inside a string"),
        ('["a\\', 0, "is cut off"),
        ("[1,,2]", 1, r"x\.json\[1\]: is missing"),
        ("[1,]", 1, r"x\.json\[1\]: is missing"),
        ("[,1]", 0, r"x\.json\[0\]: is missing"),
        ("[1}", 0, "closing brace too many"),
        ("[1] [2]", 1, "something follows the array.*jq -s add"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_broken_array_is_an_error_after_its_whole_elements(
    text: str, elements: int, error: str, size: int
) -> None:
    lines = array_lines(Drip(text.encode(), size), "x.json")
    for _ in range(elements):
        next(lines)
    with pytest.raises(UserError, match=error):
        next(lines)


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[\n]\n"])
def test_an_empty_array_has_no_elements(text: str) -> None:
    assert read(text) == []


def test_an_element_above_the_limit_of_a_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "LINE_LIMIT", 100)
    short, *_ = lines = read(json.dumps(["a" * 90, "b" * 5000, ["c"] * 3000, "d"]), 64)
    assert len(short) == 93
    assert [len(line) > 101 for line in lines] == [False, True, True, False]
    assert all(len(line) < 300 for line in lines)
