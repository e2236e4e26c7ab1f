"""JSONL parsing of a single line: a conversation, or the reason for its rejection.

A line longer than ``data.max_line_mib`` is rejected without decoding, so that it cannot exhaust the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gemfit.data.jsonl.conversation import Conversation, parse_conversation
from gemfit.data.jsonl.exact_json import RepeatedKey, first_constant, load_json
from gemfit.data.jsonl.forms.read_form import SHAPE
from gemfit.data.jsonl.line_settings import DEFAULTS, LineSettings
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import MAX_LINE_MIB
from gemfit.schemas.source_file import compression_of

LINE_LIMIT = MAX_LINE_MIB * 2**20
"""Bytes of the longest line that a recipe may allow: files are read up to there, and a little further."""

_REFUSED_ROW = b"\0refused: "
"""No JSON begins with it, so it costs a valid line nothing."""

_CSV_HEADER = re.compile(r"\s*\"?\w[\w ]*\"?([,;\t|]\"?[\w ]*\"?)+\s*")
"""Names of columns, without a bracket or a brace."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that is not a valid conversation."""

    place: str
    reason: str


def reject_line(error: UserError, place: str, reject: Callable[[Rejection], None] | None) -> None:
    """Pass the error of a line to ``reject``; raise it without one."""
    if reject is None:
        raise error
    reject(Rejection(place, str(error).removeprefix(f"{place}: ")))


def refused_row(reason: str) -> bytes:
    """A line for a row that cannot be written as JSON: reading it fails with ``reason``.

    So the row is one bad line, for `data.on_error` to decide about, and the rows after it are read.
    """
    return _REFUSED_ROW + " ".join(reason.splitlines()).encode() + b"\n"


def read_line(line: bytes, place: str, settings: LineSettings = DEFAULTS) -> Conversation:
    """The conversation of one line without line break."""
    return parse_conversation(_decoded(line, place, settings.max_bytes), place, settings)


def _decoded(line: bytes, place: str, limit: int) -> object:
    if len(line) > limit:
        raise UserError(
            f"{place}: the line is longer than {limit // 2**20} MiB, the limit for one conversation; split "
            "the conversation, raise data.max_line_mib, or check that the file has one conversation per line"
        )
    if line.startswith(_REFUSED_ROW):
        raise UserError(f"{place}: {line.removeprefix(_REFUSED_ROW).decode(errors='replace')}")
    if b"\0" in line:
        raise UserError(f"{place}: {_binary_error(line)}")
    try:
        return load_json(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{place}: {_json_error(line, error)}") from None
    except RepeatedKey as key:
        raise UserError(
            f"{place}: the key {key} stands twice in one object, and one of the two would be lost; remove it"
        ) from None


def _binary_error(line: bytes) -> str:
    """What a line with NUL bytes is."""
    if b"\0ustar" in line:
        return "is a tar archive; unpack it, and give the files in it"
    if line.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "is Arrow; write it as Parquet, or give its folder as hf:FOLDER"
    if compression := compression_of(line[:16], ""):
        return f"is {compression} inside of a compressed file; decompress it once"
    if line.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) or line.count(0) / len(line) > 0.6:
        return "is UTF-32, not UTF-8; convert the file (iconv -f UTF-32 -t UTF-8)"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or 0.3 < line.count(0) / len(line) < 0.6:
        return "is UTF-16, not UTF-8; convert the file (iconv -f UTF-16 -t UTF-8)"
    return f"holds a NUL byte at byte {line.index(0) + 1}; is this a text file?"


def _json_error(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        return (
            f"is not UTF-8: byte 0x{line[wrong.start]:02x} at byte {wrong.start + 1}; "
            "convert the file to UTF-8 (iconv -t UTF-8)"
        )
    if "surrogate" in error.msg:
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it"
    if "depth limit" in error.msg:
        return "is nested more than a thousand levels deep; remove what is so deep"
    if text.startswith("\ufeff"):
        return (
            "begins with a byte order mark, as joined files have it; remove it: "
            "sed 's/^\\xef\\xbb\\xbf//' FILE > converted.jsonl"
        )
    if _CSV_HEADER.fullmatch(text):
        return "is the header of a table; save it as a file called *.csv, with commas"
    if text.strip() == "[":
        return (
            "is only '[': the file is one JSON list; write one conversation per line: "
            "jq -c '.[]' FILE > converted.jsonl"
        )
    if text.strip() == "{":
        return (
            "is only '{': an object is spread over several lines; write one conversation per line: "
            "jq -c . FILE > converted.jsonl"
        )
    if constant := first_constant(text):
        return f"is not JSON: it holds {constant}; write null instead, or remove the key"
    start = text[:30] + ("…" if len(text) > 30 else "")
    return f"is not JSON: {error.msg} at column {error.colno}, in {start!r}; {_way_out(text, error)}"


def _way_out(text: str, error: orjson.JSONDecodeError) -> str:
    """What to do about a line that looks like JSON."""
    is_followed, rest = "after document" in error.msg, text[error.colno - 1 :].lstrip()
    if is_followed and rest.startswith("{"):
        if "\r" in text:
            return "lines end with a carriage return alone: tr '\\r' '\\n' < FILE > converted.jsonl"
        return "write one object per line: jq -c . FILE > converted.jsonl"
    if is_followed and rest.strip() == ",":
        return "remove the comma at the end of lines: sed 's/,[[:space:]]*$//' FILE > converted.jsonl"
    if text.startswith("[") and text.rstrip().endswith(","):
        return "the lines are one list; write one conversation per line: jq -c '.[]' FILE > converted.jsonl"
    if text.startswith(("{'", "[{'")):
        return "it is written as Python, not as JSON; write each line with json.dumps"
    if "control character" in error.msg:
        return "write line breaks and tabs in a string as \\n and \\t"
    return f"write {SHAPE} on one line"
