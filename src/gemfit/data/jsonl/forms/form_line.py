"""A line of any form as messages, and what error texts call its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

CONTROL_KEYS = ("system", "tools", "weight", "train")
"""Keys of a line that have the same meaning in every form."""


@dataclass(frozen=True, slots=True)
class PartNames:
    """Names of messages and their keys in the data."""

    messages: str = "messages"
    role: str = "role"
    content: str = "content"
    fields: tuple[str, ...] = ()
    """One key of the line for each message, in forms that have no list of messages."""

    def message(self, index: int) -> str:
        """The name of a message."""
        return self.fields[index] if self.fields else f"{self.messages}[{index}]"

    def text(self, index: int) -> str:
        """The name of a message's content."""
        return self.fields[index] if self.fields else f"{self.messages}[{index}].{self.content}"


MESSAGES = PartNames()


class FormLine(NamedTuple):
    """A line as messages."""

    form: str
    """Empty for `messages`."""
    messages: Any
    """What stands where the list of messages should be."""
    keys: tuple[str, ...]
    """Keys of the line that were read, without ``CONTROL_KEYS``."""
    names: PartNames = MESSAGES
    system: object = None
    """A system text outside of the messages."""
    tools: object = None
    is_exact: bool = False
    """Whether JSON became text, so that numbers have to be decoded as they were written."""
