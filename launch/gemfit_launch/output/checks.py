"""A table of check results."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from gemfit.schemas.check import CheckResult
from gemfit_launch.output.tables import table


def check_table(results: Sequence[CheckResult]) -> Table:
    """One row per result, with the remedy below the finding."""
    rows = [
        (result.state, result.about, result.name, result.found + (f"\n-> {result.do}" if result.do else ""))
        for result in results
    ]
    return table(["", "about", "what", "found"], rows)
