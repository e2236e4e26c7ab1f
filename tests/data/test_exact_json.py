"""Text of tools: numbers, nulls and the order of keys stay as written; keys that stand twice are refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl.exact_json import NumberText, RepeatedKey, dump_json, load_json
from gemfit.data.jsonl.line_parser import read_line
from gemfit.errors import UserError

NUMBERS = [
    "115792089237316195423570985008687907853269984665640564039457584007913129639935",
    "-9223372036854775809",
    "18446744073709551616",
    "18446744073709551615",
    "1.10",
    "1e3",
    "1E+3",
    "-0",
    "-0.0",
    "0.1",
    "1e-7",
    "7",
    "1e22",
    "0.30000000000000004",
    "100000000000000000000000000000000000000000000000000.5",
]
BEYOND_FLOATS = [
    "1e400",
    "-1.5E+999",
    "9" * 5000,
    "-" + "1" * 400 + ".5",
    "-" + "1" * 400 + ".5e10",
    "9" * 290 + "e99",
    "1" + "0" * 299 + "E9",
]
"""Numbers that ``orjson`` refuses."""
NO_NUMBERS = ["01e400", "1.e400", "1.5.2e400", "--1e400", "+1e400", "1e400e400", "0" * 400, ".1e400"]
NUMBER = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers().map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
TEXT = st.text(st.sampled_from('ab"\\:é漢\u2028\n'), max_size=4)
DOCUMENT = st.recursive(
    st.one_of(
        NUMBER, st.sampled_from(["null", "true", "false"]), TEXT.map(lambda t: orjson.dumps(t).decode())
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(TEXT, inner, max_size=4).map(
            lambda items: "{" + ",".join(f"{orjson.dumps(k).decode()}:{v}" for k, v in items.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@given(text=DOCUMENT)
def test_compact_json_is_written_as_it_was_read(text: str) -> None:
    assert dump_json(load_json(text.encode())) == text


@pytest.mark.parametrize("number", BEYOND_FLOATS)
def test_numbers_beyond_floats_stay_as_written(number: str) -> None:
    text = f'{{"a":[{number},"1e999"],"b":null}}'
    assert dump_json(load_json(text.encode())) == text
    for broken in (f'{{"a":{number}', f'{{"a":{number},"b":NaN}}', f'{{"a":{number},"b":"\\ud800"}}'):
        with pytest.raises(ValueError, match=r"end of data|unexpected|surrogate"):
            load_json(broken.encode())


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("beyond", ["", "1e400,"], ids=["alone", "after another"])
def test_what_is_no_number_is_not_json(number: str, beyond: str) -> None:
    with pytest.raises(UserError, match="is not JSON"):
        read_line(f'{{"id":[{beyond}{number}]}}'.encode(), "f:1")


@given(text=DOCUMENT)
def test_a_number_is_equal_to_the_one_that_orjson_reads(text: str) -> None:
    assert load_json(text.encode()) == orjson.loads(text)


def line(arguments: str, tools: str = "") -> bytes:
    calls = f'[{{"type":"function","function":{{"name":"send","arguments":{arguments}}}}}]'
    messages = f'[{{"role":"user","content":"go"}},{{"role":"assistant","tool_calls":{calls}}}]'
    return f'{{"messages":{messages}{tools}}}'.encode()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("as_text", [False, True], ids=["object", "string"])
def test_arguments_of_calls_keep_numbers_nulls_and_order(number: str, as_text: bool) -> None:
    arguments = f'{{"z":{number},"a":null,"m":[{number}]}}'
    given = json.dumps(arguments) if as_text else arguments
    found = read_line(line(given), "f:1").messages[1].content
    assert found == f'[{{"name":"send","arguments":{arguments}}}]'


@pytest.mark.parametrize("as_text", [False, True], ids=["list", "string"])
def test_definitions_of_tools_keep_numbers_nulls_and_order(as_text: bool) -> None:
    tools = '[{"name":"send","parameters":{"z":{"default":null,"maximum":1e3,"multipleOf":1.10}}}]'
    given = json.dumps(tools) if as_text else tools
    conversation = read_line(line("{}", f', "tools": {given}'), "f:1")
    assert conversation.messages[0].content == tools


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (b'{"messages": [], "messages": [{"role": "user", "content": "a"}]}', "messages"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
        (b'{"messages": [{"role": "user", "content": "a"}], "meta": {"x": {"id": 1, "id" : 2}}}', "id"),
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_refused(given: bytes, key: str) -> None:
    with pytest.raises(UserError, match=rf"^f:1: the key {key} stands twice in one object"):
        read_line(given, "f:1")
    with pytest.raises(UserError, match="its arguments: the key a stands twice"):
        read_line(line(json.dumps('{"a": 1, "a": 2}')), "f:1")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_named_with_its_key(constant: str) -> None:
    given = f'{{"messages": [], "scores": {{"fluency": {constant}}}}}'.encode()
    with pytest.raises(UserError, match=rf"it holds {constant} under the key 'fluency'; write null"):
        read_line(given, "f:1")


def test_arguments_that_are_nested_too_deeply_are_refused() -> None:
    for depth in (300, 1000):
        with pytest.raises(UserError, match=r"tool_calls.* cannot be written as JSON"):
            read_line(line('{"a":' + "[" * depth + "]" * depth + "}"), "f:1")


def test_equal_keys_in_different_objects_and_in_texts_are_no_fault() -> None:
    value: Any = {"messages": [{"role": "user", "content": '{"a": 1, "a": 2}'}], "a": {"a": 1}}
    assert read_line(orjson.dumps(value), "f:1").messages[0].content == '{"a": 1, "a": 2}'
    assert isinstance(load_json(b"1.10"), NumberText)
    with pytest.raises(RepeatedKey):
        load_json(b'[{"b":1,"b":1}]')
