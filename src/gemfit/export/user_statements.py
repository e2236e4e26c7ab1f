"""Licence, base model, language and power data that the user states; stored for later model cards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract


class UserStatements(Contract):
    """What no file of the run says; ``None`` and empty: not stated."""

    license: str | None = None
    """Identifier of the Hugging Face Hub, such as `gemma` or `apache-2.0`."""
    base_model: str | None = None
    """Name on the Hugging Face Hub of a base model that was read from a folder."""
    language: tuple[str, ...] = ()
    """ISO 639 codes of the conversations."""
    grid_intensity: Annotated[float, Field(ge=0)] | None = None
    """Of the electricity, in grams of CO2 equivalent per kilowatt-hour."""
    pue: Annotated[float, Field(ge=1)] | None = None
    """Power usage effectiveness of the data centre: all its energy over that of its computers."""


def read_statements(run: RunDir) -> UserStatements:
    """What was stated for an earlier card."""
    path = run.card_statements
    return UserStatements.read(path) if path.is_file() else UserStatements()


def add_statements(run: RunDir, new: UserStatements) -> UserStatements:
    """Store what ``new`` states; earlier statements about everything else remain."""
    merged = read_statements(run).model_copy(update=new.model_dump(exclude_defaults=True))
    if merged != UserStatements():
        run.card_statements.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(run.card_statements, merged.to_json())
    return merged
