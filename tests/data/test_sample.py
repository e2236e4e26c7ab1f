"""The sample conversations: reproducible, and of the shape that packing and splitting need."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAMPLE = EXAMPLES / "conversations.jsonl"

Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def conversations() -> list[Messages]:
    return [json.loads(line)["messages"] for line in SAMPLE.read_text("utf-8").splitlines()]


def _words(messages: Messages) -> int:
    return sum(len(message["content"].split()) for message in messages)


def test_the_script_writes_the_committed_bytes(tmp_path: Path) -> None:
    target = tmp_path / "again.jsonl"
    subprocess.run([sys.executable, EXAMPLES / "make_conversations.py", target], check=True)
    assert target.read_bytes() == SAMPLE.read_bytes()


def test_system_comes_first_and_user_and_assistant_take_turns(conversations: list[Messages]) -> None:
    assert len(conversations) == 300
    for messages in conversations:
        roles = [message["role"] for message in messages]
        expected = chain(["system"], cycle(["user", "assistant"]))
        assert roles == [role for role, _ in zip(expected, roles, strict=False)]
        assert roles[-1] == "assistant"
        assert all(message["content"].strip() for message in messages)


def test_lengths_are_wide_and_skewed(conversations: list[Messages]) -> None:
    turns = [len(messages) - 1 for messages in conversations]
    words = sorted(map(_words, conversations))
    assert (min(turns), max(turns)) == (2, 40)
    assert words[0] < 60
    assert words[-1] > 4000
    mean, median = sum(words) / len(words), words[len(words) // 2]
    assert mean > 1.4 * median
    assert 1_000_000 < SAMPLE.stat().st_size < 1_500_000


def test_no_two_conversations_are_near_duplicates(conversations: list[Messages]) -> None:
    def shingles(messages: Messages) -> set[str]:
        words = " ".join(message["content"] for message in messages[1:]).split()
        return {" ".join(words[start : start + 5]) for start in range(len(words) - 4)}

    sets = list(map(shingles, conversations))
    numbers = {shingle: number for number, shingle in enumerate(set().union(*sets))}
    holds = np.zeros((len(sets), len(numbers)), np.float32)
    for row, one in zip(holds, sets, strict=True):
        row[[numbers[shingle] for shingle in one]] = 1
    sizes, both = holds.sum(axis=1), holds @ holds.T
    similar = (both / (sizes[:, None] + sizes - both))[np.triu_indices(len(sets), 1)]
    assert len(similar) == 300 * 299 / 2
    assert 0 < similar.max() < 0.5


def test_no_template_syntax_is_left_in_the_text(conversations: list[Messages]) -> None:
    text = "".join(message["content"] for messages in conversations for message in messages)
    assert re.findall(r"[\[\]{}|<>]|  | [.,?!]", text) == []


def test_who_speaks_of_danger_is_pointed_to_people_who_can_help(conversations: list[Messages]) -> None:
    danger = re.compile(
        r"better off without me|something was thrown|take more of them|It's come back into my head"
    )
    answered = [
        answer["content"]
        for messages in conversations
        for message, answer in pairwise(messages)
        if danger.search(message["content"])
    ]
    assert len(answered) >= 5
    assert all("emergency number" in answer for answer in answered)


@pytest.fixture
def to_messages() -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLES / "gemma-270m-chat" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = module.to_messages
    return function


def _recording(*sent: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [[{"sender": sender, "text": text}] for sender, text in sent]}


def test_messages_of_one_speaker_in_a_row_become_one(to_messages: Callable[..., Any]) -> None:
    recording = _recording(("b", "Hello "), ("b", "  "), ("b", "You there?"), ("a", "Yes."), ("b", "Good."))
    assert list(to_messages([recording])) == [
        [
            {"role": "user", "content": "Hello\nYou there?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Good."},
        ]
    ]


def test_a_recording_without_an_answer_gives_no_conversation(to_messages: Callable[..., Any]) -> None:
    unanswered = [
        _recording(),
        _recording(("a", "Hello?"), ("a", "Nobody?")),
        _recording(("a", "x"), ("b", " ")),
    ]
    assert list(to_messages(unanswered)) == []
