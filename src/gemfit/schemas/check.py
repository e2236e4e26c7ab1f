"""What `gemfit doctor` and `gemfit preflight` find: one result for each thing that was looked at."""

from __future__ import annotations

from typing import Literal

from gemfit.schemas.base import Contract


class CheckResult(Contract):
    """One thing that was looked at."""

    about: str
    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    do: str = ""
    """What to do about it; empty where nothing is wrong, or where ``found`` says it."""


def ok(about: str, name: str, found: str) -> CheckResult:
    """Nothing is wrong."""
    return CheckResult(about=about, name=name, state="ok", found=found)


def warning(about: str, name: str, found: str, do: str = "") -> CheckResult:
    """It works, or may work, but not as well as it could, or may cost work."""
    return CheckResult(about=about, name=name, state="warning", found=found, do=do)


def error(about: str, name: str, found: str, do: str = "") -> CheckResult:
    """Training would fail, be wrong, or not come back."""
    return CheckResult(about=about, name=name, state="error", found=found, do=do)
