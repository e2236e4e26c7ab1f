"""Bad input: the message names place, value and way out, and nothing is left on disk."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import zstandard

from gemfit.data.__main__ import main
from gemfit.data.build.setup import prepare_tokenizer
from gemfit.data.packing.split_turns import check_seq_len
from gemfit.errors import UserError
from gemfit.schemas.pack_job import PackJob

from .conftest import Build, WriteConversations, random_conversation, random_conversations

GOOD = random_conversations(40)


def say(*messages: object) -> dict[str, Any]:
    return {"messages": list(messages)}


def left(folder: Path) -> set[str]:
    """Files besides the block cache, which has a folder of its own."""
    return {path.name for path in folder.iterdir()} - {"cache"}


def last_line(printed: str) -> str:
    return printed.splitlines()[-1]


USER = {"role": "user", "content": "Hello."}
REPLY = {"role": "assistant", "content": "Hello to you."}
SYSTEM = {"role": "system", "content": "Be kind."}

BAD_LINES: dict[str, tuple[object, list[str]]] = {
    "no object": ([1, 2], ["a list", "write {"]),
    "a number": (7, ["found 7", "write {"]),
    "no JSON": (b'{"messages": [', ["is not JSON", "column", "write {"]),
    "text": (b"user: hello", ["is not JSON", "user: hello", "write {"]),
    "two objects": (b'{"messages": []} {"messages": []}', ["column 18", "one object per line: jq -c . FILE"]),
    "old line ends": (b'{"messages": []}\r{"messages": []}', ["column 18", "tr '\\r' '\\n' < FILE"]),
    "comma at the end": (b'{"messages": []}, ', ["column 17", "sed 's/,[[:space:]]*$//' FILE"]),
    "first line of a list": (b'[{"messages": []},', ["the lines are one list", "jq -c '.[]' FILE"]),
    "Python": (b"{'messages': []}", ["written as Python", "json.dumps"]),
    "break in a string": (b'{"messages": "a\tb"}', ["control character", "\\n and \\t"]),
    "no messages": ({"text": "hello"}, ["no `messages`, only 'text'", "write {"]),
    "messages null": ({"messages": None}, ["null", "expected a list", "write {"]),
    "messages text": ({"messages": "hello"}, ["`messages`: 'hello' is not JSON", "write it as JSON"]),
    "messages empty": ({"messages": []}, ["`messages` is empty", "remove the line"]),
    "message text": (say("hello"), ["messages[0] is 'hello'", 'write {"role"']),
    "no role": (say({"content": "x"}), ["messages[0].role is null or missing", "expected system, user"]),
    "role misspelt": (say({"role": "asistant", "content": "x"}), ["'asistant'", "did you mean 'assistant'?"]),
    "role number": (say({"role": 3, "content": "x"}), ["role is 3", "expected system, user"]),
    "result of no call": (
        say(USER, {"role": "tool", "content": "x", "tool_call_id": "1"}),
        ["messages[1].tool_call_id is '1'", "in the order of calls"],
    ),
    "misspelt key": (
        say(USER, {**REPLY, "wieght": 0}),
        ["messages[1] has the key 'wieght'", "did you mean 'weight'"],
    ),
    "content null": (say({"role": "user", "content": None}), ["content is null", "remove the message"]),
    "no content": (say({"role": "user"}), ["content is null or missing", "write a string"]),
    "content number": (say({"role": "user", "content": 5}), ["content is 5", "write a string"]),
    "image part": (
        say({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        ["content[0] is a part of type 'image_url'", "remove the part"],
    ),
    "NUL in text": (say({"role": "user", "content": "a\0b"}), ["NUL character at position 1", "remove it"]),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), ["is UTF-16, not UTF-8", "iconv -f UTF-16"]),
    "UTF-16 without a mark": ('{"messages": []}'.encode("utf-16-le"), ["is UTF-16, not UTF-8"]),
    "a tar archive": (b"a.jsonl" + bytes(250) + b"ustar  " + bytes(300), ["is a tar archive; unpack it"]),
    "Arrow": (b"ARROW1\0\0 x", ["is Arrow; write it as Parquet"]),
    "compressed twice": (gzip.compress(b"x", mtime=0), ["is gzip inside of a compressed file"]),
    "an object over several lines": (b"{", ["is only '{'", "jq -c . FILE"]),
    "NUL byte": (b'{"messages"\0: []}', ["NUL byte at byte 12", "text file?"]),
    "not UTF-8": (b'{"messages": "\xe9"}', ["is not UTF-8: byte 0xe9 at byte 15", "iconv"]),
    "lone surrogate": (
        rb'{"messages": [{"role": "user", "content": "\ud800"}]}',
        ["surrogate pair", "remove it"],
    ),
    "two system messages": (
        say(SYSTEM, SYSTEM, USER),
        ["messages[1] is a second system message", "merge it"],
    ),
    "late system message": (say(USER, SYSTEM, REPLY), ["messages[1] is a system message", "merge it"]),
    "system only": (say(SYSTEM), ["only a system message", "add user"]),
    "too long": (b" " * (8 * 2**20 + 1), ["longer than 8 MiB", "split the conversation"]),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_stops_the_build_and_says_where_what_and_how(
    kind: str, write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    line, hints = BAD_LINES[kind]
    path = write_conversations_file([*GOOD[:5], line, *GOOD[5:10]])
    status, printed = build(path)
    assert status == 2
    assert last_line(printed).startswith(f"error: {path}:6: ")
    assert "Traceback" not in printed
    for hint in hints:
        assert hint in printed
    assert left(tmp_path) == {"conversations.jsonl", "job.json"}


def test_bad_lines_are_skipped_counted_and_listed_when_asked(
    write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    bad = [line for line, _ in BAD_LINES.values()]
    path = write_conversations_file([*GOOD[:20], *bad, b"", b"  ", *GOOD[20:]])
    status, printed = build(path, on_error="skip")
    assert status == 0
    assert f"rejected lines: {len(bad)}" in printed
    listed = [json.loads(line) for line in (tmp_path / "pack/rejected.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in listed] == list(range(21, 21 + len(bad)))
    assert all(entry["place"] == f"{path}:{entry['line']}" for entry in listed)
    for entry, (_, hints) in zip(listed, BAD_LINES.values(), strict=True):
        assert all(hint in entry["reason"] for hint in hints)
        assert not entry["reason"].startswith(str(path))
    losses = json.loads((tmp_path / "pack/manifest.json").read_text())["losses"]
    assert losses["lines_read"] == len(GOOD) + len(bad) + 2
    assert (losses["blank_lines"], losses["rejected_lines"]) == (2, len(bad))


ROLES = [
    ("assistant first", say(REPLY, USER), "the roles assistant, user"),
    ("two users", say(USER, USER, REPLY), "the roles user, user, assistant"),
    ("two assistants", say(SYSTEM, USER, REPLY, REPLY), "the roles system, user, assistant, assistant"),
]


@pytest.mark.parametrize(("line", "roles"), [case[1:] for case in ROLES], ids=[case[0] for case in ROLES])
def test_roles_that_do_not_alternate_are_refused_by_the_template_only(
    line: object, roles: str, write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    path = write_conversations_file([*GOOD, line])
    status, printed = build(path, format="chat_template")
    assert status == 2
    assert last_line(printed).startswith(f"error: {path}:{len(GOOD) + 1}: the chat template refuses {roles}")
    assert "use data.format: role_markers" in printed
    assert not (tmp_path / "pack").exists()
    assert build(path)[0] == 0


def test_a_conversation_without_an_answer_trains_nothing_on_answers(
    write_conversations_file: WriteConversations, build: Build
) -> None:
    path = write_conversations_file([*GOOD, say(USER)])
    status, printed = build(path, loss_on="assistant")
    assert status == 2
    assert f"{path}:41: has no assistant message" in printed
    assert "loss_on: all" in printed


@pytest.mark.parametrize("lines", [[b"", b" "], [b"x", b""], []], ids=["blank", "bad", "one blank"])
def test_a_file_without_a_valid_line_is_refused(
    lines: list[bytes], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    path = write_conversations_file([*lines, b""])
    status, printed = build(path, on_error="skip")
    assert status == 2
    assert f"error: {path}: holds no valid conversation" in printed
    assert left(tmp_path) == {"conversations.jsonl", "job.json"}


def test_a_byte_order_mark_crlf_and_a_missing_last_newline_are_accepted(
    write_job: Callable[..., Path], build: Build, tmp_path: Path
) -> None:
    path = tmp_path / "conversations.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(orjson.dumps(line) for line in GOOD))
    status, printed = build(path)
    assert status == 0, printed


def test_keys_other_than_messages_are_ignored(
    write_conversations_file: WriteConversations, build: Build
) -> None:
    lines = [{"id": i, "source": ["x"], **line} for i, line in enumerate(GOOD)]
    assert build(write_conversations_file(lines))[0] == 0


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_compressed_file_that_ends_too_early_is_named(suffix: str, build: Build, tmp_path: Path) -> None:
    plain = b"".join(orjson.dumps(line) + b"\n" for line in random_conversations(300, seed=2))
    whole = gzip.compress(plain) if suffix.endswith(".gz") else zstandard.compress(plain)
    path = tmp_path / f"conversations{suffix}"
    path.write_bytes(whole[: len(whole) // 2] if suffix.endswith(".gz") else b"nonsense" + whole)
    status, printed = build(path)
    assert status == 2
    assert last_line(printed).startswith(f"error: {path}:")
    assert "cannot be read further" in printed
    assert not (tmp_path / "pack").exists()


def test_data_without_training_conversations_is_refused(
    write_conversations_file: WriteConversations, build: Build
) -> None:
    path = write_conversations_file([random_conversation(random.Random(0), exchanges=30)])
    status, printed = build(path, seq_len=64, overlong="drop")
    assert status == 2
    assert "no conversation is left to train on: of 1, 1 were longer than data.seq_len" in printed
    status, printed = build(path, seq_len=16, overlong="truncate", loss_on="assistant", validation_share=0)
    assert status == 2
    assert "of 1, 1 without a trained token in what fits into data.seq_len" in printed
    assert "validation split" not in printed


def test_a_file_that_changed_after_planning_is_refused(
    write_conversations_file: WriteConversations,
    write_job: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = write_job(write_conversations_file(GOOD))
    write_conversations_file(GOOD[1:])
    assert main([str(job), "--out", str(tmp_path / "pack")]) == 2
    assert "has changed since the pack was planned; run the command again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b'{"messages": [', b"", b"\x1f\x8b", b"\n"])
def test_a_file_that_changes_while_it_is_read_is_not_called_broken(
    content: bytes,
    write_conversations_file: WriteConversations,
    write_job: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_conversations_file(GOOD)
    job = write_job(path)

    def change_meanwhile(job: PackJob) -> Any:
        tokenizer = prepare_tokenizer(job)
        path.write_bytes(content)
        return tokenizer

    monkeypatch.setattr("gemfit.data.build.pipeline.prepare_tokenizer", change_meanwhile)
    assert main([str(job), "--out", str(tmp_path / "pack")]) == 2
    assert last_line(capsys.readouterr().err).startswith(f"error: {path}: has changed since the pack was")


def test_a_folder_in_use_is_refused_and_left_as_it_is(
    write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/mine.txt").write_text("mine")
    status, printed = build(write_conversations_file(GOOD))
    assert status == 2
    assert "pack: holds something else; choose another --out" in printed
    assert [p.name for p in (tmp_path / "pack").iterdir()] == ["mine.txt"]


def test_rows_too_short_for_a_system_prefix_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.seq_len is 16, but .* 5 tokens .* at least 20"):
        check_seq_len(np.zeros(5, np.uint32), 16)
