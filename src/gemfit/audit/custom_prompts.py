"""Custom prompts: the user's JSON lines, each with what is expected of the reply.

``{"id": "greeting", "prompt": "Hello", "expect": {"any_of": ["hello", "hi"], "max_words": 40}}``
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from gemfit.audit.lexicon import normalised, num_words
from gemfit.audit.suite import Measure, Prompt, PromptSuite, means, prompt_messages
from gemfit.errors import UserError
from gemfit.schemas.audit import AuditedSuite
from gemfit.schemas.base import Contract
from gemfit.schemas.evaluation import SampleMessage

EXPECTED = Measure(
    name="as expected",
    better="higher",
    says="Share of replies that meet what the prompt's own line expects; it is as good as these are.",
)
SHAPE = '{"id": "…", "prompt": "…", "expect": {"any_of": ["…"]}}'
Texts = tuple[Annotated[str, Field(min_length=1)], ...]


class Expectation(Contract):
    """Conditions that a reply has to meet, all of them; case-insensitive except ``regex``."""

    any_of: Texts = ()
    """At least one of these texts is in it."""
    none_of: Texts = ()
    """None of these is."""
    regex: str | None = None
    """Found somewhere in the reply as it is."""
    max_words: Annotated[int, Field(ge=1)] | None = None

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a valid regular expression: {error}") from None
        return value

    def met_by(self, reply: str) -> bool:
        """Whether ``reply`` meets all."""
        text = normalised(reply)
        return all(
            (
                not self.any_of or any(normalised(one) in text for one in self.any_of),
                not any(normalised(one) in text for one in self.none_of),
                self.regex is None or re.search(self.regex, reply) is not None,
                self.max_words is None or num_words(reply) <= self.max_words,
            )
        )


class CustomPrompt(Contract):
    """One line of the file."""

    id: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    messages: Annotated[tuple[SampleMessage, ...], Field(min_length=1)] | None = None
    expect: Expectation | None = None

    @model_validator(mode="after")
    def _one_form(self) -> CustomPrompt:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self


def custom_suite(path: Path, system: str, limit: int | None) -> PromptSuite:
    """The prompts of ``path``; a line with `messages` gets no system prompt."""
    entries = list(_read(path))[:limit]
    return PromptSuite(
        name=path.stem,
        about=AuditedSuite(
            purpose=f"The prompts of {path.name}.", source=path.name, limits="As its author knows."
        ),
        prompts=tuple(
            Prompt(
                number=entry.id,
                messages=entry.messages or prompt_messages(entry.prompt or "", system),
                facts={"expect": entry.expect},
            )
            for entry in entries
        ),
        score=score,
        figures=means([EXPECTED]),
    )


def score(prompt: Prompt, reply: str) -> dict[str, float]:
    """Whether the reply is as expected; nothing where nothing is expected."""
    expect: Expectation | None = prompt.facts["expect"]
    return {} if expect is None else {EXPECTED.name: float(expect.met_by(reply))}


def _read(path: Path) -> Iterator[CustomPrompt]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        entry = _entry(line, f"{path}:{number}")
        if entry.id in seen:
            raise UserError(f"{path}:{number}: id {entry.id!r} is that of line {seen[entry.id]} as well")
        seen[entry.id] = number
        yield entry
    if not seen:
        raise UserError(f"{path}: holds no prompt; write lines such as {SHAPE}")


def _entry(line: str, where: str) -> CustomPrompt:
    try:
        json.loads(line)
        return CustomPrompt.model_validate_json(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is not JSON: {error}; write lines such as {SHAPE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(f"{where}: {at}: {first['msg']}; write lines such as {SHAPE}") from None
