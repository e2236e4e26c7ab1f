"""The loop of a conversation: a line of the person, a reply of the model.

Replies go to standard output and all else to standard error, so that a pipe gets replies alone.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from gemfit.chat.generator import ReplyGenerator
from gemfit.chat.session import ChatSession, command
from gemfit.errors import UserError

PROMPT = "> "
HISTORY_LINES = 1000


def chat_loop(speaker: ReplyGenerator, talk: ChatSession, history: Path | None) -> None:
    """Go on until the input ends or `/quit`; ``history`` keeps the lines of a terminal, if there is one."""
    is_terminal = sys.stdin.isatty()
    if is_terminal and history is not None:
        _remember(history)
    tell(f"system: {talk.system}" if talk.system else "system: none")
    if is_terminal:
        tell("/help lists the commands; Ctrl-C interrupts a reply, Ctrl-D ends")
    while (line := _read(is_terminal)) is not None:
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                done = command(talk, line.strip())
                talk = done.talk
                for told in done.lines:
                    tell(told)
                if done.ends:
                    return
            else:
                talk = _turn(speaker, talk, line)
        except UserError as error:
            tell(f"error: {error}")


def answer(speaker: ReplyGenerator, talk: ChatSession, message: str, *, as_json: bool) -> None:
    """Reply to one message on standard output, as it is generated or as one JSON object.

    ``ended`` of the JSON is `stop`, or `length` where the reply has all the tokens that it may have.
    """
    talk = _fitting(speaker, talk, message)
    began = time.monotonic()
    reply = speaker.reply(talk.messages(message), (lambda text: None) if as_json else _write)
    if not as_json:
        _write("\n")
        return
    full = reply.tokens >= speaker.manner.max_new_tokens and not reply.stopped
    found = {
        "reply": reply.text,
        "prompt_tokens": reply.read,
        "reply_tokens": reply.tokens,
        "ended": "interrupted" if reply.interrupted else "length" if full else "stop",
        "seconds": round(time.monotonic() - began, 3),
    }
    _write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def tell(line: str) -> None:
    """Say something that is no reply."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _turn(speaker: ReplyGenerator, talk: ChatSession, said: str) -> ChatSession:
    talk = _fitting(speaker, talk, said)
    try:
        reply = speaker.reply(talk.messages(said), _write)
    except KeyboardInterrupt:
        _write("\n")
        tell("interrupted; the message is taken back")
        return talk
    _write("\n")
    if reply.interrupted:
        tell("interrupted")
    if not reply.text:
        tell("the reply is empty; the message is taken back")
        return talk
    return talk.answered(said, reply.text)


def _fitting(speaker: ReplyGenerator, talk: ChatSession, said: str) -> ChatSession:
    """``talk`` without as many of its oldest turns as do not fit into the model's context any more."""
    short, room = talk, speaker.room
    while (length := speaker.length(short.messages(said))) > room:
        if not short.turns:
            raise UserError(f"the message has {length:,} tokens with what comes before it; {room:,} fit")
        short = short.shortened()
    if dropped := len(talk.turns) - len(short.turns):
        tell(f"the context is full: the oldest {dropped} turns are forgotten")
    return short


def _read(is_terminal: bool) -> str | None:
    """The next line; ``None`` when there is none. Ctrl-C at the prompt begins a new line."""
    while True:
        try:
            return input(PROMPT if is_terminal else "")
        except EOFError:
            if is_terminal:
                tell("")
            return None
        except KeyboardInterrupt:
            tell("")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _remember(history: Path) -> None:
    """Let the arrow keys bring back lines, those of earlier conversations too."""
    import atexit  # noqa: PLC0415  (only a terminal has a history)
    import readline  # noqa: PLC0415

    with suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)

    def keep() -> None:
        with suppress(OSError):
            readline.write_history_file(history)

    atexit.register(keep)
