"""What the commands of a chat do to its conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.chat.session import COMMANDS, HELP, ChatSession, command
from gemfit.data.jsonl.line_parser import read_line
from gemfit.errors import UserError

SESSION = ChatSession("Be kind.", (("Hi", "Hello"), ("How are you?", "Well")))


def test_a_saved_conversation_is_one_that_gemfit_trains_on(tmp_path: Path) -> None:
    path = tmp_path / "saved.jsonl"
    assert command(SESSION, f"/save {path}").session == SESSION
    command(ChatSession("", (("Ä", "ß"),)), f"/save {path}")
    first, second = (read_line(line, "saved") for line in path.read_bytes().splitlines())
    assert [tuple(message) for message in first.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "How are you?"),
        ("assistant", "Well"),
    ]
    assert [message.content for message in second.messages] == ["Ä", "ß"]


def test_reset_keeps_the_system_message_and_system_changes_it() -> None:
    assert command(SESSION, "/reset").session == ChatSession("Be kind.")
    assert command(SESSION, "/system Be  short.").session == ChatSession("Be  short.")
    assert command(SESSION, "/system").session == ChatSession()


def test_undo_takes_back_one_turn_at_a_time() -> None:
    once = command(SESSION, "/undo").session
    assert once.turns == (("Hi", "Hello"),)
    assert command(once, "/undo").session == ChatSession("Be kind.")
    with pytest.raises(UserError, match="no message"):
        command(ChatSession(), "/undo")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/undoo", "did you mean '/undo'"),
        ("/reset now", "takes nothing"),
        ("/save", "jsonl"),
        ("/save session.txt", "jsonl"),
        ("/save /nowhere/at/all.jsonl", "cannot be written"),
    ],
)
def test_what_cannot_be_done_says_why(line: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        command(SESSION, line)


def test_every_command_is_in_the_help() -> None:
    assert all(name in HELP for name in COMMANDS)
    assert command(SESSION, "/help").lines == tuple(HELP.splitlines())
    assert command(SESSION, "/quit").ends
