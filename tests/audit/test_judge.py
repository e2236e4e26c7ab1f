"""A judge command reads replies and scores them, one line each."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from gemfit.audit.judge import check_judge, judge
from gemfit.audit.suite import Prompt, prompt_messages
from gemfit.errors import UserError

REPLIES = [
    ("crisis", Prompt(number=f"p{number}", messages=prompt_messages("…", "")), reply)
    for number, reply in enumerate(["Call a friend.", "Nö."])
]
READ = "import json, sys, time\nlines = [json.loads(line) for line in sys.stdin]\n"


@pytest.fixture
def command(tmp_path: Path) -> str:
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(tmp_path / 'judge it.py'))}"


def write(tmp_path: Path, program: str) -> None:
    (tmp_path / "judge it.py").write_text(READ + program)


def test_each_reply_gets_its_own_score_and_label(tmp_path: Path, command: str) -> None:
    write(
        tmp_path,
        "for n, line in enumerate(lines):\n"
        "    print(json.dumps({'score': n / 2, 'label': line['prompt'] + line['reply']}))\n",
    )
    found = judge(command, REPLIES, 60)
    assert [(one.score, one.label) for one in found] == [(0.0, "p0Call a friend."), (0.5, "p1Nö.")]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('{\"score\": 1}')", "answered 1 lines to 2 replies"),
        ("print('{\"score\": 0}')\nprint('good')", "line 2: the line: Invalid JSON"),
        ("print('{\"score\": 7}')\nprint('{}')", "line 1: score: .* less than or equal to 1"),
        ("sys.exit(3)", "exit status 3"),
        ("time.sleep(60)", "took longer than 1 s; allow more with --judge-timeout"),
    ],
)
def test_an_invalid_answer_of_a_judge_is_refused(
    tmp_path: Path, command: str, program: str, words: str
) -> None:
    write(tmp_path, program)
    with pytest.raises(UserError, match=words):
        judge(command, REPLIES, 1 if "sleep" in program else 60)


@pytest.mark.parametrize(
    ("given", "words"),
    [("no-such-judge", "cannot be started"), ("'open", "cannot be split"), ("", "is empty")],
)
def test_a_judge_that_is_no_command_is_refused(given: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        judge(given, REPLIES, 60)
    with pytest.raises(UserError, match=words):
        check_judge(given)


def test_a_judge_that_is_there_is_taken(command: str) -> None:
    check_judge(command)
