"""Text files that others may have written or damaged."""

from __future__ import annotations

from pathlib import Path

from gemfit.core.regular_file import read_regular
from gemfit.errors import UserError


def read_text_file(path: Path) -> str:
    """The UTF-8 text in ``path``; a ``UserError`` with the path where it cannot be read."""
    try:
        return read_regular(path).decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
