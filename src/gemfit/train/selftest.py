"""Start-up checks."""

from __future__ import annotations

from typing import Any


def check(trainer: Any) -> None:
    """Later."""
