"""The structure that CONTRIBUTING and docs/design.md promise: no circles, one name for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"gemfit": ROOT / "src", "gemfit_launch": ROOT / "launch"}
MODULES = sorted(path for package, root in SOURCES.items() for path in (root / package).rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})
ROLES = ("verbs", "output", "schemas", "summary", "report", "modelcard")
"""Folders whose modules are called after their subject: a verb, its output, its data model, its rendering."""


@pytest.fixture(scope="module")
def imports() -> networkx.DiGraph:
    """Module -> module, for every import in the two packages."""
    graph = grimp.build_graph(*SOURCES)
    edges = ((a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a))
    return networkx.DiGraph(edges)


def circles(graph: networkx.DiGraph) -> list[list[str]]:
    return [sorted(found) for found in networkx.strongly_connected_components(graph) if len(found) > 1]


def siblings(imports: networkx.DiGraph, depth: int) -> networkx.DiGraph:
    """The imports between folders, and modules, that lie in one folder ``depth`` levels down."""
    edges = set[tuple[str, str]]()
    for importer, imported in imports.edges:
        a, b = ((".".join(name.split(".")[:depth])) for name in (importer, imported))
        if a != b and a.rpartition(".")[0] == b.rpartition(".")[0]:
            edges.add((a, b))
    return networkx.DiGraph(edges)


def test_modules_do_not_import_each_other_in_a_circle(imports: networkx.DiGraph) -> None:
    assert len(imports) > 300, "the graph is smaller than the tree"
    assert circles(imports) == []


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_folders_do_not_import_each_other_in_a_circle(imports: networkx.DiGraph, depth: int) -> None:
    assert circles(siblings(imports, depth)) == []


def test_a_circle_would_be_found(imports: networkx.DiGraph) -> None:
    looped = imports.copy()
    looped.add_edge("gemfit.errors", "gemfit.train.main")
    assert circles(looped)
    assert circles(siblings(looped, 2))


def classes(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        tree = ast.parse(path.read_text())
        yield from ((node.name, path) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def places(named: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, path in named:
        found[name].append(str(path.relative_to(ROOT)))
    return {name: where for name, where in found.items() if len(where) > 1}


def test_a_class_name_is_used_once() -> None:
    assert len(list(classes(MODULES))) > 200
    assert places(classes(MODULES)) == {}


def test_a_module_name_stands_twice_only_where_its_folder_says_the_role() -> None:
    plain = [(path.name, path) for path in MODULES if path.parent.name not in ROLES]
    twice = places((name, path) for name, path in plain if name not in ("__init__.py", "__main__.py"))
    assert twice == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_it_is_and_what_it_imports(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    what, _, imported = text.partition("\n\n")
    assert what.endswith("."), "the first line says what the folder is"
    assert len(what.splitlines()) == 1
    assert "import" in imported.lower(), "the second paragraph says what the folder may import"
