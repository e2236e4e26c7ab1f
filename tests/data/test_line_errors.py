"""Lines that are no JSON, or none that can be read: the reason, and a way out that fits it."""

from __future__ import annotations

import json

import pytest

from gemfit.data.jsonl.line_parser import read_line
from gemfit.errors import UserError

LINE = json.dumps({"messages": [{"role": "user", "content": "Is it raining?"}]})
ERRORS: dict[str, tuple[bytes, str]] = {
    "a byte order mark of a joined file": (b"\xef\xbb\xbf" + LINE.encode(), "begins with a byte order mark"),
    "too many levels": (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", "more than a thousand levels deep"),
    "the header of a table": (b"prompt,completion\r", r"the header of a table; save it .* \*\.csv"),
    "NaN in a list": (b'{"a": {"b": [[1, -Infinity]]}}', "holds -Infinity under the key 'b'"),
    "UTF-16": (LINE.encode("utf-16"), "is UTF-16, .*iconv -f UTF-16 "),
    "UTF-32": (LINE.encode("utf-32"), "is UTF-32, .*iconv -f UTF-32 "),
    "UTF-32 without a mark": (LINE.encode("utf-32-be"), "is UTF-32, .*iconv -f UTF-32 "),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_line_that_cannot_be_read_says_why_and_what_to_do(kind: str) -> None:
    line, reason = ERRORS[kind]
    with pytest.raises(UserError, match=rf"^f:7: .*{reason}"):
        read_line(line, "f:7")
