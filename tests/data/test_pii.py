"""PII scan: what is found, what is ignored, and that masking changes nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.filter.pii import ADDRESS, find_pii, scan_pii
from gemfit.data.filter.pii_scan import find_candidates
from gemfit.data.jsonl.message_batch import Messages


def contents(*texts: str) -> Messages:
    """One conversation of these."""
    data = [text.encode() for text in texts]
    return Messages(
        text=b"".join(data),
        ends=np.cumsum([len(one) for one in data]).astype(np.int64),
        roles=np.ones(len(data), np.uint8),
        last=np.array([len(data)], np.int64),
        lines=np.array([1], np.int64),
    )


def texts_of(messages: Messages) -> list[str]:
    edges = [0, *messages.ends.tolist()]
    return [messages.text[start:end].decode() for start, end in pairwise(edges)]


def masked(*texts: str) -> list[str]:
    return texts_of(scan_pii(contents(*texts), "mask")[0])


FOUND = {
    "joe.doe@mail.example.com": "[EMAIL]",
    "Mail <a+b@mail.example.org>, or x_y@a-b.co.uk.": "Mail <[EMAIL]>, or [EMAIL].",
    "mailto:joe@x.com": "mailto:[EMAIL]",
    "名joe@x.com名": "名[EMAIL]名",
    "a@b.com: hello": "[EMAIL]: hello",
    "call +49 30 901820 now": "call [PHONE] now",
    "tel:+4930901820": "tel:[PHONE]",
    "+49 (0)30 901820, +1 650-253-0000": "[PHONE], [PHONE]",
    "(650) 253-0000": "[PHONE]",
    "650-253-0000 or 650.253.0000": "[PHONE] or [PHONE]",
    "1-650-253-0000.": "[PHONE].",
    "card 4111 1111 1111 1111": "card [CARD]",
    "4111-1111-1111-1111, 12/27": "[CARD], 12/27",
    "(5555555555554444)": "([CARD])",
    "3782 822463 10005": "[CARD]",
    "DE89 3704 0044 0532 0130 00": "[IBAN]",
    "IBAN: DE89370400440532013000,": "IBAN: [IBAN],",
    "GB82 WEST 1234 5698 7654 32": "[IBAN]",
}

LEFT_ALONE = [
    "2024-01-15T10:30:00.123456789Z and 20240115103000",
    "1700000000 1700000000000 1700000000000000 1700000000000000000",
    "2023-10-01 2023-11-01, 01.02.2024 12:30:45",
    "v1.2.3, 1.23.456.7890, numpy==2.4.6, 10.0.19045.3803",
    "192.168.100.123, 127.0.0.1:8080, ::1",
    "3.14159265358979323846, 0.4111111111111111, 1e-4111111111111111",
    "d41d8cd98f00b204e9800998ecf8427e 0x4111111111111111",
    "550e8400-e29b-41d4-a716-446655440000",
    "4111 1111 1111 1112 fails the check, 4111 1111 1111 1111 1111 is too long",
    "id_4111111111111111 /4111111111111111/ a4111111111111111",
    "1 2 3 4 5 6 7 8 9 10 11 12, 100 200 3000, 1,234,567,890",
    "9780306406157 and AB12345678901234567",
    "(123) 456-7890 is no valid number, nor is +1234567890",
    "a+12345678901, x[1]+4930901820, f(2)+4930901820",
    "@app.route('/x'), user@localhost, foo@bar, pkg@1.2.3",
    "git@github.com:foo/bar.git, https://user:word@host.com/x, https://user@host.com",
    "icon@2x.png, x@w.T, q@k.transpose(1), a@b.dot(c)",
    "joe@mail.test, joe@printer.local, a..b@x..com",
    "+20240101 in a difference, +++ b/20240101",
]


@pytest.mark.parametrize(("text", "expected"), FOUND.items())
def test_pii_is_masked_in_place(text: str, expected: str) -> None:
    assert masked(text) == [expected]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_text_that_only_looks_like_pii_is_unchanged(text: str) -> None:
    assert scan_pii(contents(text), "mask")[1] == {}
    assert masked(text) == [text]


def test_pii_is_counted_by_kind_and_counting_changes_nothing() -> None:
    before = contents(*FOUND)
    after, counts = scan_pii(before, "count")
    assert after is before
    assert counts == {"email": 6, "phone": 8, "card": 4, "iban": 3}
    assert scan_pii(before, "mask")[1] == counts


def test_no_match_spans_two_contents() -> None:
    split = [
        "joe@",
        "x.com",
        "",
        "4111 1111 1111",
        " 1111",
        "+49 30",
        " 901820",
        "DE89 3704 0044 ",
        "0532 0130 00",
    ]
    assert scan_pii(contents(*split), "count")[1] == {}
    assert scan_pii(contents("".join(split[:2]), "".join(split[3:5])), "count")[1] == {"email": 1, "card": 1}


def test_pii_at_the_edges_of_contents_is_found() -> None:
    texts = ["1.", "4111 1111 1111 1111", "2 joe@x.com", "joe@x.com", "9", "+4930901820", "", "5"]
    assert masked(*texts) == ["1.", "[CARD]", "2 [EMAIL]", "[EMAIL]", "9", "[PHONE]", "", "5"]


def test_an_empty_batch_has_no_pii() -> None:
    nothing = contents()
    assert scan_pii(nothing, "mask") == (nothing, {})


SNIPPETS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="@+(-./:[="), max_size=20),
    st.sampled_from([" joe@x.com ", " +49 30 901820 ", " 4111-1111-1111-1111 ", " DE89370400440532013000 "]),
)


@settings(deadline=None)
@given(texts=st.lists(st.lists(SNIPPETS, max_size=6).map("".join), min_size=1, max_size=6))
def test_masking_keeps_every_other_byte_and_leaves_no_pii(texts: list[str]) -> None:
    before = contents(*texts)
    matches = list(find_pii(before))
    after, counts = scan_pii(before, "mask")
    assert sum(counts.values()) == len(matches)
    assert scan_pii(after, "count")[1] == {}
    expected = [
        text.replace("joe@x.com", "[EMAIL]")
        .replace("+49 30 901820", "[PHONE]")
        .replace("4111-1111-1111-1111", "[CARD]")
        .replace("DE89370400440532013000", "[IBAN]")
        for text in texts
    ]
    assert texts_of(after) == expected


@given(text=st.text("ab@.-_ 1+é", max_size=60))
def test_every_address_lies_inside_a_candidate(text: str) -> None:
    data = text.encode()
    found = find_candidates(data, np.array([len(data)]))
    spans = [(start, end) for kind, start, end in found if kind == 0]
    for match in ADDRESS.finditer(data):
        assert any(start <= match.start() and match.end() <= end for start, end in spans)


@pytest.mark.parametrize("mark", [b"ab@cd.ef", b"212-555-0123"])
@pytest.mark.parametrize("byte", range(256))
def test_surrounding_bytes_of_any_kind_hide_no_candidate(byte: int, mark: bytes) -> None:
    for before in range(20):  # bytes are looked at eight at a time
        data = bytes([byte]) * before + b" " + mark + b" " + bytes([byte]) * 9
        found = find_candidates(data, np.array([len(data)]))
        assert any(first <= before + 1 and before + 1 + len(mark) <= end for _, first, end in found)
