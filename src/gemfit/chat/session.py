"""The state of a conversation in a terminal, and what its commands do to it. No torch."""

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
    """A conversation up to the next message of the person."""

    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    """What the person said, and what the model said to it."""

    def messages(self, said: str | None = None) -> list[SampleMessage]:
        """The conversation as messages; ``said`` is what the person says next."""
        first = [SampleMessage(role="system", content=self.system)] if self.system else []
        for user, assistant in self.turns:
            first += [
                SampleMessage(role="user", content=user),
                SampleMessage(role="assistant", content=assistant),
            ]
        return [*first, *([SampleMessage(role="user", content=said)] if said is not None else [])]

    def answered(self, said: str, reply: str) -> ChatSession:
        """After one more turn."""
        return replace(self, turns=(*self.turns, (said, reply)))

    def shortened(self) -> ChatSession:
        """Without the oldest turn."""
        return replace(self, turns=self.turns[1:])


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command did."""

    talk: ChatSession
    lines: tuple[str, ...] = field(default=())
    """Said to the person."""
    ends: bool = False


def command(talk: ChatSession, line: str) -> CommandResult:
    """Carry out a line that begins with `/`; ``UserError`` for what cannot be done."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/reset", "/undo", "/help", "/quit") and rest:
        raise UserError(f"{name} takes nothing behind it, not {rest!r}; see /help")
    match name:
        case "/reset":
            return CommandResult(ChatSession(talk.system), ("begun again",))
        case "/system":
            return CommandResult(
                ChatSession(rest), (f"begun again; system: {rest}" if rest else "begun again; no system",)
            )
        case "/undo":
            return _undo(talk)
        case "/save":
            return CommandResult(talk, (_save(talk, rest),))
        case "/help":
            return CommandResult(talk, tuple(HELP.splitlines()))
        case "/quit":
            return CommandResult(talk, ends=True)
    raise UserError(f"{name} is no command{did_you_mean(name, COMMANDS)}; see /help")


def _undo(talk: ChatSession) -> CommandResult:
    if not talk.turns:
        raise UserError("there is no message to take back")
    return CommandResult(replace(talk, turns=talk.turns[:-1]), ("taken back: " + talk.turns[-1][0],))


def _save(talk: ChatSession, name: str) -> str:
    if not name.endswith(".jsonl"):
        raise UserError("/save needs the name of a file that ends in .jsonl")
    if not talk.turns:
        raise UserError("there is nothing to save yet")
    line = json.dumps({"messages": [m.model_dump() for m in talk.messages()]}, ensure_ascii=False)
    try:
        with Path(name).expanduser().open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise UserError(f"{name}: cannot be written: {error.strerror}") from None
    return f"added to {name}: {len(talk.turns)} turns"
