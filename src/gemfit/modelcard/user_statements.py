"""What a person states for a card, because no file of a run says it. Kept with the card, for the next one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract


class Stated(Contract):
    """Statements for a card; ``None`` and empty: nothing was stated."""

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


def read_stated(run: RunDir) -> Stated:
    """What was stated before; nothing, if nothing was."""
    path = run.card_statements
    return Stated.read(path) if path.is_file() else Stated()


def state(run: RunDir, new: Stated) -> Stated:
    """Keep what ``new`` states, and what was stated before about everything else."""
    told = read_stated(run).model_copy(update=new.model_dump(exclude_defaults=True))
    if told != Stated():
        run.card_statements.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(run.card_statements, told.to_json())
    return told
