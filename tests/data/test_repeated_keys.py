"""Count of written keys against Python's parser: every spacing, escape and text that looks like a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl.message_columns import MessageColumns
from gemfit.data.jsonl.repeated_keys import count_written_keys

TEXT = st.text(st.sampled_from('ab"\\: \t{},[]'), max_size=6)
BLANK = st.text(st.sampled_from(" \t\r"), max_size=3)
PAIRS = st.recursive(
    st.one_of(TEXT, st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(TEXT, inner), max_size=4)),
    max_leaves=8,
)
"""Values; an object is a list of pairs, so that a key may stand twice."""
MESSAGES = '"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "%s"}]'


def written(value: Any, blank: Callable[[], str]) -> str:
    """The JSON of a value, with blanks around each part."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        pairs = [f"{json.dumps(key)}{blank()}:{blank()}{written(item, blank)}" for key, item in value]
        return "{" + blank() + f"{blank()},{blank()}".join(pairs) + blank() + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, blank) for item in value) + blank() + "]"
    return json.dumps(value)


def num_keys(value: Any) -> int:
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return len(value) + sum(num_keys(item) for _, item in value)
    return sum(map(num_keys, value)) if isinstance(value, list) else 0


def count(text: bytes) -> int:
    data = np.frombuffer(text, np.uint8)
    return int(count_written_keys(data, data.ctypes.data))


@given(values=st.lists(PAIRS, min_size=1, max_size=3), data=st.data())
def test_every_written_key_is_counted_once(values: list[Any], data: st.DataObject) -> None:
    lines = [written(value, lambda: data.draw(BLANK)).encode() for value in values]
    for line in lines:
        orjson.loads(line)
    assert count(b"\n".join(lines)) == sum(map(num_keys, values))


@pytest.mark.parametrize(
    "more",
    [
        '"id": 1, "id": 2',
        '"id" \t: 1, "id": 2',
        '"a\\\\": 1, "a\\\\": 2',
        '"b": {"a": 1, "a": 2}',
        '"b": [{"a": 1, "a" : 2}]',
        '"a\\"": 1, "a\\"": 2',
        '": ": 1, ": ": 2',
    ],
)
def test_a_repeated_key_leaves_the_batch_path(more: str) -> None:
    line = f"{{{MESSAGES % 'rest'}, {more}}}".encode()
    assert MessageColumns().add_batch([line], 1) is None


@pytest.mark.parametrize("text", ["    :param x: y", '\\"a\\": 1', '\\\\\\": x', ":", "::\\n\\n    x"])
def test_a_text_that_looks_like_a_key_stays_on_the_batch_path(text: str) -> None:
    assert MessageColumns().add_batch([f"{{{MESSAGES % text}}}".encode()], 1)
