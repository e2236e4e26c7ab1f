"""Private words of earlier versions do not come back in names; docs/glossary.md has those of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for folder in ("src", "launch") for path in (ROOT / folder).rglob("*.py"))
RETIRED = frozenset(
    {
        *("ahead", "atom", "beside", "conduct", "evidence", "exam", "fate", "foretell"),
        *("inset", "likeness", "mend", "person", "personal", "pusher", "settle", "stretch"),
        *("subject", "talk", "torn", "trap", "whoever", "wish"),
    }
)
"""In no name at all, in singular or plural."""
RETIRED_IN_MODULES = RETIRED | {"apart", "given", "kept", "known", "own", "piece", "room", "told"}
"""These may name a variable, but not what a module is about."""


def words(name: str) -> set[str]:
    """The lower-case words of an identifier, and each without its plural `s`."""
    found = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    return found | {word.removesuffix(ending) for word in found for ending in ("s", "es")}


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, arguments, variables, attributes and imports that ``tree`` defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def retired(names: Iterable[str], among: frozenset[str] = RETIRED) -> list[str]:
    return sorted({name for name in names if words(name) & among})


def test_no_module_or_folder_has_a_retired_name() -> None:
    parts = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert len(parts) > 300
    assert retired(parts, RETIRED_IN_MODULES) == []


def test_no_identifier_has_a_retired_word() -> None:
    found = {
        str(path.relative_to(ROOT)): retired(defined_names(ast.parse(path.read_text()))) for path in MODULES
    }
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def read_talks(): ...", "read_talks"),
        ("async def mend(): ...", "mend"),
        ("class TornLine: ...", "TornLine"),
        ("def read(path, *, atom=None): ...", "atom"),
        ("def read(*wishes): ...", "wishes"),
        ("def read(**talk): ...", "talk"),
        ("lambda subject: 1", "subject"),
        ("LIKENESS_BITS: int = 3", "LIKENESS_BITS"),
        ("for a, talk in pairs: ...", "talk"),
        ("self.fates = []", "fates"),
        ("class Table:\n    beside: int", "beside"),
        ("import exams as exam_table", "exam_table"),
    ],
)
def test_a_retired_word_would_be_found(code: str, name: str) -> None:
    assert retired(defined_names(ast.parse(code))) == [name]


@pytest.mark.parametrize(
    "code",
    ['x = "talk"', "settled = 1", "print(table.atom)", "atomic = write_atomic(wishful)", "row['fate'] = 1"],
)
def test_literals_uses_and_longer_words_are_not_names(code: str) -> None:
    assert retired(defined_names(ast.parse(code))) == []
