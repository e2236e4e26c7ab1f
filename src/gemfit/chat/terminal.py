"""Chat loop in a terminal: a line of the user, a reply of the model.

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


def chat_loop(generator: ReplyGenerator, session: ChatSession, history: Path | None) -> None:
    """Chat until the input ends or `/quit`; ``history`` keeps the lines of a terminal, if there is one."""
    is_terminal = sys.stdin.isatty()
    if is_terminal and history is not None:
        _use_history(history)
    print_status(f"system: {session.system}" if session.system else "system: none")
    if is_terminal:
        print_status("/help lists the commands; Ctrl-C interrupts a reply, Ctrl-D ends")
    while (line := _read(is_terminal)) is not None:
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                done = command(session, line.strip())
                session = done.session
                for output in done.lines:
                    print_status(output)
                if done.ends:
                    return
            else:
                session = _turn(generator, session, line)
        except UserError as error:
            print_status(f"error: {error}")


def reply_once(generator: ReplyGenerator, session: ChatSession, message: str, *, as_json: bool) -> None:
    """Reply to one message on standard output, as it is generated or as one JSON object.

    ``ended`` of the JSON is `stop`, or `length` where the reply has all the tokens that it may have.
    """
    session = _drop_oldest_turns(generator, session, message)
    began = time.monotonic()
    reply = generator.reply(session.messages(message), (lambda text: None) if as_json else _write)
    if not as_json:
        _write("\n")
        return
    full = reply.tokens >= generator.settings.max_new_tokens and not reply.stopped
    found = {
        "reply": reply.text,
        "prompt_tokens": reply.read,
        "reply_tokens": reply.tokens,
        "ended": "interrupted" if reply.interrupted else "length" if full else "stop",
        "seconds": round(time.monotonic() - began, 3),
    }
    _write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def print_status(line: str) -> None:
    """Print a line that is not part of a reply, on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _turn(generator: ReplyGenerator, session: ChatSession, message: str) -> ChatSession:
    session = _drop_oldest_turns(generator, session, message)
    try:
        reply = generator.reply(session.messages(message), _write)
    except KeyboardInterrupt:
        _write("\n")
        print_status("interrupted; the message is taken back")
        return session
    _write("\n")
    if reply.interrupted:
        print_status("interrupted")
    if not reply.text:
        print_status("the reply is empty; the message is taken back")
        return session
    return session.with_turn(message, reply.text)


def _drop_oldest_turns(generator: ReplyGenerator, session: ChatSession, message: str) -> ChatSession:
    """``session`` without the oldest turns that do not fit into the model's context."""
    shortened, room = session, generator.room
    while (length := generator.length(shortened.messages(message))) > room:
        if not shortened.turns:
            raise UserError(f"the message has {length:,} tokens with what comes before it; {room:,} fit")
        shortened = shortened.without_oldest_turn()
    if dropped := len(session.turns) - len(shortened.turns):
        print_status(f"the context is full: the oldest {dropped} turns are forgotten")
    return shortened


def _read(is_terminal: bool) -> str | None:
    """The next line; ``None`` when there is none. Ctrl-C at the prompt begins a new line."""
    while True:
        try:
            return input(PROMPT if is_terminal else "")
        except EOFError:
            if is_terminal:
                print_status("")
            return None
        except KeyboardInterrupt:
            print_status("")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _use_history(history: Path) -> None:
    """Readline history, shared by all conversations."""
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
