"""State of a chat session, and its slash commands. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.evaluation import SampleMessage

HELP = """\
/reset            begin again, with the same system message
/system TEXT      begin again with another one; without TEXT, with none
/undo             take back your last message and its reply
/save FILE.jsonl  add the conversation to a file, in the format that gemfit trains on
/help             this list
/quit             end, as Ctrl-D does; Ctrl-C interrupts a reply"""
COMMANDS = ("/reset", "/system", "/undo", "/save", "/help", "/quit")


@dataclass(frozen=True, slots=True)
class ChatSession:
    """A conversation up to the next user message."""

    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    """Pairs of user and assistant message."""

    def messages(self, user_message: str | None = None) -> list[SampleMessage]:
        """The conversation as messages; ``user_message`` is the next one of the user."""
        first = [SampleMessage(role="system", content=self.system)] if self.system else []
        for user, assistant in self.turns:
            first += [
                SampleMessage(role="user", content=user),
                SampleMessage(role="assistant", content=assistant),
            ]
        return [
            *first,
            *([SampleMessage(role="user", content=user_message)] if user_message is not None else []),
        ]

    def with_turn(self, user_message: str, reply: str) -> ChatSession:
        """After one more turn."""
        return replace(self, turns=(*self.turns, (user_message, reply)))

    def without_oldest_turn(self) -> ChatSession:
        """Without the oldest turn."""
        return replace(self, turns=self.turns[1:])


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a slash command."""

    session: ChatSession
    lines: tuple[str, ...] = field(default=())
    """Output for the user."""
    ends: bool = False


def command(session: ChatSession, line: str) -> CommandResult:
    """Run a line that begins with `/`; ``UserError`` for what cannot be done."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/reset", "/undo", "/help", "/quit") and rest:
        raise UserError(f"{name} takes nothing behind it, not {rest!r}; see /help")
    match name:
        case "/reset":
            return CommandResult(ChatSession(session.system), ("begun again",))
        case "/system":
            return CommandResult(
                ChatSession(rest), (f"begun again; system: {rest}" if rest else "begun again; no system",)
            )
        case "/undo":
            return _undo(session)
        case "/save":
            return CommandResult(session, (_save(session, rest),))
        case "/help":
            return CommandResult(session, tuple(HELP.splitlines()))
        case "/quit":
            return CommandResult(session, ends=True)
    raise UserError(f"{name} is not a command{did_you_mean(name, COMMANDS)}; see /help")


def _undo(session: ChatSession) -> CommandResult:
    if not session.turns:
        raise UserError("there is no message to take back")
    return CommandResult(replace(session, turns=session.turns[:-1]), ("taken back: " + session.turns[-1][0],))


def _save(session: ChatSession, name: str) -> str:
    if not name.endswith(".jsonl"):
        raise UserError("/save needs the name of a file that ends in .jsonl")
    if not session.turns:
        raise UserError("there is nothing to save yet")
    line = json.dumps({"messages": [m.model_dump() for m in session.messages()]}, ensure_ascii=False)
    try:
        with Path(name).expanduser().open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise UserError(f"{name}: cannot be written: {error.strerror}") from None
    return f"added to {name}: {len(session.turns)} turns"
