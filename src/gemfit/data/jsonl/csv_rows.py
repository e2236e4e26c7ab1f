"""Rows of a CSV file as JSON lines: JSON text in a column, such as ``messages``, becomes the value it is."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from gemfit.data.jsonl.line_parser import LINE_LIMIT, refused_row
from gemfit.errors import UserError

_JSON_COLUMNS = frozenset(["messages", "conversations", "conversation", "contents", "tools", "history"])
_MESSAGES = re.compile(r"\s*\[\s*\{\s*\"(role|from|content|value)\"")
"""JSON of a list of messages, in a column of any name."""
_SWITCHES = ("weight", "train")
_SWITCHED = ("0", "1", "0.0", "1.0", "true", "false")


def csv_lines(stream: BinaryIO, path: str) -> Iterator[bytes]:
    """Each row below the header as one line; a malformed file is a ``UserError`` after the rows before.

    The header is the first row that is not blank. Below it, a row without a field is a blank line, one of too
    many fields a bad line, and an empty field null.
    """
    csv.field_size_limit(LINE_LIMIT)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True)
    number = 0
    try:
        header = next(filter(None, rows), [])
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise UserError(f"{path}: the first row has the column {twice[0]!r} twice; rename one of them")
        for row in rows:
            number += 1
            yield _line(header, row)
    except csv.Error as error:
        raise UserError(f"{path}:{number + 1}: is not valid CSV, with commas: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number + 1}: is not UTF-8: {error.reason}; convert the file to UTF-8 (iconv -t UTF-8)"
        ) from None
    finally:
        text.detach()  # the stream is closed by its owner


def _line(header: list[str], row: list[str]) -> bytes:
    if not row:
        return b"\n"
    if len(row) > len(header):
        return refused_row(f"has {len(row)} fields, and the header {len(header)}")
    named = dict(zip(header, row, strict=False))
    fields = [
        orjson.dumps(name) + b":" + (_value(name, text) if text else b"null") for name, text in named.items()
    ]
    return b"{" + b",".join(fields) + b"}\n"


def _value(name: str, text: str) -> bytes:
    """JSON text of messages and tools as it is written, a weight as a number; any other text as a string."""
    if name in _SWITCHES and text.lower() in _SWITCHED:
        return text.lower().encode()
    if (name in _JSON_COLUMNS and text.lstrip()[:1] in ("[", "{")) or _MESSAGES.match(text):
        encoded = text.encode()
        try:
            orjson.loads(encoded)
        except orjson.JSONDecodeError:
            pass
        else:  # a string holds no line break, so these are between tokens
            return encoded.replace(b"\r", b" ").replace(b"\n", b" ")
    return orjson.dumps(text)
