"""A console of rich whose texts cannot control the terminal: they may come from files of others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from gemfit.control_characters import escape_control_characters


class PlainConsole(Console):
    """Prints texts without markup, with control characters by code point."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """``text`` as it is shown, so that tables are as wide as that."""
        return super().render_str(escape_control_characters(text), **options)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """Segments of any renderable: a ``Text`` does not pass ``render_str``."""
        for segment in super().render(*arguments, **options):
            yield (
                segment if segment.control else segment._replace(text=escape_control_characters(segment.text))
            )
