"""External judge: a command that reads replies as JSON lines and answers each with a score.

On its standard input: ``{"suite", "prompt", "variant", "messages", "reply"}``, one line per reply. On its
standard output, in the same order: ``{"score": 0.0 to 1.0, "label": "…"}``, the label if it has one.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, ValidationError

from gemfit.audit.suite import Measure, Prompt
from gemfit.errors import UserError
from gemfit.schemas.base import Contract

JUDGE = Measure(
    name="judge",
    better="higher",
    says="Mean score of the judge command; what that measures, only its author can say.",
    is_share=False,
)


class Judgement(Contract):
    """One line of the answer."""

    score: Annotated[float, Field(ge=0, le=1)]
    label: str = ""


JudgeInput = tuple[str, Prompt, str]
"""Name of the suite, prompt and reply."""


def judge(command: str, replies: Sequence[JudgeInput], timeout_seconds: float) -> list[Judgement]:
    """The judgement of ``command`` on each reply; ``UserError`` unless there is one valid line each."""
    text = "".join(json.dumps(_line(*one), ensure_ascii=False) + "\n" for one in replies)
    answer = _run(command, text, timeout_seconds)
    lines = answer.removesuffix("\n").split("\n") if answer else []  # a label may hold other breaks
    found = [_judgement(line, f"--judge: line {number}") for number, line in enumerate(lines, 1)]
    if len(found) != len(replies):
        raise UserError(
            f"--judge: {command!r} answered {len(found):,} lines to {len(replies):,} replies; "
            "it has to answer one line to each, in order"
        )
    return found


def check_judge(command: str) -> None:
    """``UserError`` for what cannot be a judge, before hours of generation."""
    program = _argv(command)[0]
    if shutil.which(program) is None:
        raise UserError(f"--judge: {program!r} cannot be started: it is not a file and not on PATH")


def _run(command: str, text: str, timeout_seconds: float) -> str:
    argv = _argv(command)
    try:
        done = subprocess.run(
            argv, input=text.encode(), stdout=subprocess.PIPE, timeout=timeout_seconds, check=False
        )
    except OSError as error:
        raise UserError(f"--judge: {argv[0]!r} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--judge: {command!r} took longer than {timeout_seconds:g} s; allow more with --judge-timeout"
        ) from None
    if done.returncode:
        raise UserError(f"--judge: {command!r} ended with exit status {done.returncode}")
    try:
        return done.stdout.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"--judge: {command!r} answered in an encoding other than UTF-8: {error}") from None


def _argv(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--judge: {command!r} cannot be split into words: {error}") from None
    if not argv:
        raise UserError("--judge: is empty; write a command, such as 'python judge.py'")
    return argv


def _line(suite: str, prompt: Prompt, reply: str) -> dict[str, object]:
    return {
        "suite": suite,
        "prompt": prompt.number,
        "variant": prompt.variant,
        "messages": [message.model_dump() for message in prompt.messages],
        "reply": reply,
    }


def _judgement(line: str, where: str) -> Judgement:
    try:
        return Judgement.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(
            f'{where}: {at}: {first["msg"]}: {line[:80]!r}; write {{"score": 0.5, "label": "…"}}'
        ) from None
