"""Results of the checks of `gemfit doctor` and `gemfit preflight`."""

from __future__ import annotations

from typing import Literal

from gemfit.schemas.base import Contract


class CheckResult(Contract):
    """Result of one check."""

    about: str
    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    do: str = ""
    """Remedy; empty if nothing is wrong, or if ``found`` contains it."""


def ok(about: str, name: str, found: str) -> CheckResult:
    """Nothing is wrong."""
    return CheckResult(about=about, name=name, state="ok", found=found)


def warning(about: str, name: str, found: str, do: str = "") -> CheckResult:
    """Training works, or may work, but slower than it could, or with a risk of lost work."""
    return CheckResult(about=about, name=name, state="warning", found=found, do=do)


def error(about: str, name: str, found: str, do: str = "") -> CheckResult:
    """Training would fail, be wrong, or not resume."""
    return CheckResult(about=about, name=name, state="error", found=found, do=do)
