"""Parse a report page: elements, tables, texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "hr", "input"}
Attributes = list[tuple[str, str | None]]


@dataclass
class ParsedPage(HTMLParser):
    """Parsed page; ``wrong`` lists elements that are not closed where they should be."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    """By the class of the element that they stand in."""
    _open: list[tuple[str, str]] = field(default_factory=list)
    _rows: list[list[str]] = field(default_factory=list)
    _caption: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag in VOID:
            return
        self._open.append((tag, attributes.get("class", "")))
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "figcaption":
            self.texts.setdefault(tag, []).append("")
        elif tag in ("div", "p", "pre") and attributes.get("class"):
            self.texts.setdefault(attributes["class"], []).append("")

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.wrong.append(f"</{tag}> inside {[name for name, _ in self._open]}")
            return
        self._open.pop()
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        tags = [tag for tag, _ in self._open]
        if "caption" in tags:
            self._caption += data
        elif tags[-1] in ("td", "th") or ("td" in tags and tags[-1] == "code"):
            self._rows[-1][-1] += data
        elif tags[-1] == "figcaption":
            self.texts["figcaption"][-1] += data
        elif self._open[-1][1] in self.texts:
            self.texts[self._open[-1][1]][-1] += data

    @property
    def unclosed(self) -> list[str]:
        return [tag for tag, _ in self._open]

    def named(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every element with this name."""
        return [attributes for name, attributes in self.elements if name == tag]


def parse_page(text: str) -> ParsedPage:
    page = ParsedPage()
    page.feed(text)
    page.close()
    return page
