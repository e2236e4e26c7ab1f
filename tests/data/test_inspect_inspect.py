"""``inspect``: rows as text and as JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.conftest import random_conversation, random_conversations, sentence
from data.handmade import IGNORED, Handmade, handmade
from gemfit.data.document import token_ids
from gemfit.data.inspect.__main__ import main
from gemfit.data.inspect.chunks import REPEATED, RowChunk, positions
from gemfit.data.inspect.printable import to_printable
from gemfit.data.inspect.roles import make_control_tokens, spans
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.render.renderer import make_renderer
from gemfit.data.render.template_segments import rendered_texts

Inspect = Callable[..., str]


@pytest.fixture
def made(tokenizer: Any) -> Handmade:
    return handmade(tokenizer, random_conversations(24), loss_on="assistant")


@pytest.fixture
def inspect(made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Inspect the pack ``made``; what is printed."""
    folder = made.write(tmp_path / "pack")

    def run(*options: str, status: int = 0) -> str:
        assert main(["inspect", str(folder), *options]) == status
        out, err = capsys.readouterr()
        return out if status == 0 else err

    return run


def rows_of(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_json_has_every_token_with_its_position_in_its_conversation(made: Handmade, inspect: Inspect) -> None:
    found = {split: rows_of(inspect("--row", "all", "--split", split, "--json")) for split in made.rows}
    entry_of = {entry.number: entry for entry in made.entries if entry.disposition == "kept"}
    looked_at = 0
    for split, rows in found.items():
        assert [row["row"] for row in rows] == list(range(len(made.rows[split])))
        for row, own in zip(rows, made.rows[split], strict=True):
            assert (row["ids"], row["labels"]) == (own.input_ids, own.labels)
            for document in row["documents"]:
                entry = entry_of[document["document"]]
                assert (document["line"], document["copies"]) == (entry.line, entry.copies)
                assert document["file"] == f"{document['source']}.jsonl"
                assert document["conversation_tokens"] == len(entry.ids)
                for place, position in enumerate(document["positions"], start=document["begin"]):
                    if position is None:
                        assert row["labels"][place] == IGNORED
                        continue
                    assert row["ids"][place] == entry.ids[position]
                    assert (row["labels"][place] != IGNORED) == entry.trained[position]
                    looked_at += 1
    assert looked_at == sum(len(entry.ids) * entry.copies for entry in entry_of.values())


def test_trained_tokens_are_in_brackets_without_colours(made: Handmade, inspect: Inspect) -> None:
    row = made.rows["train"][0]
    title, _, _, *lines = inspect().splitlines()
    assert title == (
        f"train row 0 of {len(made.rows['train'])}: 1 document, 48 of 48 places filled (100.00%), "
        f"{row.trained_tokens} tokens trained"
    )
    shown = "".join(line[13:] for line in lines[: lines.index("")])
    trained = [label for label in row.labels if label != IGNORED]
    marked = "".join(part.partition("⟧")[0] for part in shown.split("⟦")[1:])
    assert "".join(marked.split()) == "".join(made.tokenizer.decode(trained).split())


def test_each_document_is_named_by_file_and_line_and_part(made: Handmade, inspect: Inspect) -> None:
    number = next(
        index for index, row in enumerate(made.rows["train"]) if len(row.document) > 1 and row.repeated[0]
    )
    row = made.rows["train"][number]
    out = inspect("--row", str(number))
    entry = next(
        entry for entry in made.entries if entry.number == row.document[0] and entry.disposition == "kept"
    )
    start, stop = row.starts[0], row.starts[0] + row.seq_lengths[0] - row.repeated[0]
    name = ("first", "second")[entry.source]
    assert (
        f"document {entry.number} · {name}.jsonl:{entry.line} ({name}) · tokens {start}–{stop - 1} of" in out
    )
    assert f"{row.repeated[0]} repeated" in out
    assert "↻ " in out


def test_a_document_is_printed_with_all_its_chunks_in_order(made: Handmade, inspect: Inspect) -> None:
    entry = max(
        (entry for entry in made.entries if entry.disposition == "kept"), key=lambda entry: len(entry.ids)
    )
    rows = rows_of(inspect("--document", str(entry.number), "--json"))
    assert len(rows) > 2
    places = [at for row in rows for chunk in row["documents"] for at in chunk["positions"] if at is not None]
    assert sorted(places) == sorted(list(range(len(entry.ids))) * entry.copies)
    assert {chunk["document"] for row in rows for chunk in row["documents"]} == {entry.number}


def test_long_turns_are_shortened_without_all(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [random_conversation(random.Random(seed), exchanges=1, words=400) for seed in range(5)]
    folder = handmade(tokenizer, long, seq_len=2048).write(tmp_path / "pack")
    assert main(["inspect", str(folder)]) == 0
    short = capsys.readouterr().out
    assert main(["inspect", str(folder), "--all"]) == 0
    whole = capsys.readouterr().out
    assert " tokens …" in short
    assert "left out: see --all" in short
    assert len(whole) > 1.5 * len(short)
    assert " tokens …" not in whole


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--row", "5000"], "has rows 0 to "),
        (["--row", "-3"], "write 7, 0-9 or all"),
        (["--row", "9-2"], "ends before it begins; write 2-9"),
        (["--split", "test"], "has no split 'test'; it has train, validation"),
        (["--document", "99"], "has no document 99; they count from 0 to 22"),
    ],
)
def test_a_missing_row_or_split_is_named_with_the_existing_ones(
    options: list[str], what: str, inspect: Inspect
) -> None:
    options = [f"{options[0]}={options[1]}"]
    assert what in inspect(*options, status=2)


def test_colours_are_for_terminals_only(
    made: Handmade, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b" not in inspect()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = inspect()
    assert "\x1b[" in coloured
    assert "⟦" not in coloured
    assert "⟦" in inspect("--no-color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦" in inspect()


def test_data_cannot_control_the_terminal() -> None:
    texts = ["a \n\n  b\t", "c  d \x1b[31m\u202e", "e\r\x00\u200b "]
    shown = to_printable(texts)
    assert shown == ["a·⏎\n⏎\n··b→", "c··d ⟨U+001B⟩[31m⟨U+202E⟩", "e⟨U+000D⟩⟨U+0000⟩⟨U+200B⟩·"]


@given(texts=st.lists(st.text(), max_size=5))
def test_no_control_character_but_the_line_break_is_left(texts: list[str]) -> None:
    shown = "".join(to_printable(texts))
    assert not any(ord(char) < 32 and char != "\n" for char in shown)
    assert shown.count("\n") == "".join(texts).count("\n")


@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
@pytest.mark.parametrize("eos", ["token", "literal"])
def test_spans_of_a_rendered_conversation_are_its_turns(format: str, eos: str, tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, format, eos)
    rng = random.Random(7)
    messages = [
        {"role": role, "content": sentence(rng, 5)} for role in ("system", "user", "assistant", "user")
    ]
    conversation = Conversation("x:1", tuple(Message(**message) for message in messages))
    (document,) = renderer.render([conversation])
    found = spans(token_ids(document.words), make_control_tokens(tokenizer, format, eos))
    inside = renderer.segments.system_inside
    assert [span.role for span in found] == [
        "begin",
        *(["system"] * (not inside)),
        "user",
        "assistant",
        "user",
    ]
    assert found[0].start == 0
    assert all(one.stop == other.start for one, other in pairwise(found))
    assert found[-1].stop == len(document.words)
    assert rendered_texts(renderer.segments, conversation.messages)


def chunk(ids: list[int], trained: list[int], *, start: int, repeated: int) -> RowChunk:
    return RowChunk(0, 0, start, repeated, np.array(ids, np.int32), np.isin(np.arange(len(ids)), trained))


def test_repeated_tokens_come_first() -> None:
    assert positions(chunk([1, 2, 3, 4], [2, 3], start=10, repeated=2)).tolist() == [
        REPEATED,
        REPEATED,
        10,
        11,
    ]
    assert positions(chunk([1, 2], [1], start=0, repeated=0)).tolist() == [0, 1]


def test_a_header_before_repeated_system_text_is_not_repeated() -> None:
    # BOS, header of two, system text of three, body of two; under loss_on: all the header has labels.
    ids = [1, 2, 3, 4, 5, 6, 7, 8]
    wanted = [REPEATED, 20, 21, REPEATED, REPEATED, REPEATED, 22, 23]
    assert positions(chunk(ids, [1, 2, 6, 7], start=20, repeated=4)).tolist() == wanted
    assert positions(chunk(ids, [], start=20, repeated=4), (1, 2)).tolist() == wanted


def test_the_header_may_be_longer_than_the_system_text_after_it() -> None:
    ids, wanted = [1, 2, 3, 4, 5, 6], [REPEATED, 20, 21, 22, REPEATED, 23]
    assert positions(chunk(ids, [1, 2, 3, 5], start=20, repeated=2)).tolist() == wanted
