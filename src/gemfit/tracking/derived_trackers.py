"""Which trackers of a recipe are written from the records of its run."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from gemfit.errors import UserError
from gemfit.schemas.recipe_training import DERIVED_TRACKERS


def derived_trackers(names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that are written from records; ``UserError`` where a package is missing."""
    chosen = tuple(name for name in dict.fromkeys(names) if name in DERIVED_TRACKERS)
    if missing := [name for name in chosen if find_spec(name) is None]:
        raise UserError(
            f"tracking.report_to: {', '.join(missing)} is not installed; "
            f"`pip install {' '.join(missing)}`, or take it out of tracking.report_to"
        )
    return chosen
