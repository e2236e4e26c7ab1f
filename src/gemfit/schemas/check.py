"""What a doctor finds: one line for each thing that was looked at."""

from __future__ import annotations

from typing import Literal

from gemfit.schemas.base import Contract


class Check(Contract):
    """One thing that was looked at."""

    about: str
    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    do: str = ""
    """What to do about it; empty where nothing is wrong."""


def ok(about: str, name: str, found: str) -> Check:
    """Nothing is wrong."""
    return Check(about=about, name=name, state="ok", found=found)


def warn(about: str, name: str, found: str, do: str) -> Check:
    """It works, or may work, but not as well as it could."""
    return Check(about=about, name=name, state="warn", found=found, do=do)


def fail(about: str, name: str, found: str, do: str) -> Check:
    """Training would fail, or be wrong."""
    return Check(about=about, name=name, state="fail", found=found, do=do)
