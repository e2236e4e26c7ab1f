"""Settings of a recipe that decide how a line of JSONL is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemfit.schemas.recipe_data import DataRecipe

ROLES = ("system", "user", "assistant", "tool")
FUNCTION_CALL = "function_call"
"""The role of an assistant message whose content is a tool call, in ShareGPT data."""
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "observation": "tool",
}
"""Names of roles in any form of data, and the role that each stands for."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a line is read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Key of the data -> the key that it stands for."""
    roles: Mapping[str, str] = field(default_factory=lambda: ROLE_NAMES)
    """Name of a role in the data -> role."""
    ignored: frozenset[str] = frozenset()
    """Keys that are not read."""
    max_bytes: int = 8 * 2**20
    """Of one line."""

    @property
    def assistants(self) -> frozenset[str]:
        """Names of the assistant in the data."""
        return frozenset(name for name, role in self.roles.items() if role == "assistant")

    @classmethod
    def of(cls, data: DataRecipe) -> LineSettings:
        """The settings of a recipe."""
        return cls(
            columns={name: column for column, name in data.columns.items()},
            roles=ROLE_NAMES | data.roles,
            ignored=frozenset(data.ignore_columns),
            max_bytes=data.max_line_mib * 2**20,
        )


DEFAULTS = LineSettings()
