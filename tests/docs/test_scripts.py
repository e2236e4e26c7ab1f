"""Commands in the Makefile and the documents that start a script: the script and its options exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = "Makefile"
PAGES = [
    MAKEFILE,
    *sorted(
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md", "benchmarks/*.md")
        for path in ROOT.glob(pattern)
    ),
]
COMMAND = re.compile(r"\bpython[^\s`]* ((?:benchmarks|tests|examples)/[\w/.-]+)([^`\n]*)")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Script and arguments of each command; a backslash continues a line."""
    for script, arguments in COMMAND.findall(re.sub(r"\\\n", " ", text)):
        yield script, arguments.partition(" #")[0]


def options(script: Path) -> dict[str, bool]:
    """The options of a script, those of parsers that it imports too, and whether each is required."""
    tree = ast.parse(script.read_text())
    parts = [tree, *shared_parsers(tree)]
    calls = (node for part in parts for node in ast.walk(part) if isinstance(node, ast.Call))
    return {
        name: any(word.arg == "required" for word in call.keywords)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for name in [ast.literal_eval(call.args[0])]
        if name.startswith("--")
    }


def shared_parsers(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions below tests/ that make a parser for several scripts, where a script imports them."""
    for imports in ast.walk(tree):
        if isinstance(imports, ast.ImportFrom):
            wanted = {alias.name for alias in imports.names if alias.name.endswith("_parser")}
            file = ROOT / "tests" / f"{(imports.module or '').replace('.', '/')}.py"
            for node in ast.parse(file.read_text()).body if wanted else []:
                if isinstance(node, ast.FunctionDef) and node.name in wanted:
                    yield node


def problem(script: str, arguments: str) -> str | None:
    """Why a command cannot work; ``None`` if it can."""
    path = ROOT / script
    path = path / "__main__.py" if path.is_dir() else path
    if not path.is_file():
        return "there is no such script"
    defined, given = options(path), set(re.findall(r"(?<![\w-])--[a-z][\w-]*", arguments))
    if unknown := given - defined.keys():
        return f"has no option {', '.join(sorted(unknown))}"
    missing = {name for name, required in defined.items() if required} - given
    return f"needs {', '.join(sorted(missing))}" if missing else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_script_has_its_options(page: str) -> None:
    found = commands((ROOT / page).read_text(encoding="utf-8"))
    wrong = [f"{script}: {why}" for script, arguments in found if (why := problem(script, arguments))]
    assert not wrong, f"{page}:\n" + "\n".join(wrong)


def test_the_search_finds_commands_of_the_makefile_and_of_pages() -> None:
    scripts = {script for script, _ in commands((ROOT / MAKEFILE).read_text())}
    assert {"benchmarks/gpu_check", "benchmarks/packing_efficiency.py", "tests/slurm/matrix.py"} <= scripts
    assert sum(len(list(commands((ROOT / page).read_text()))) for page in PAGES) > 25


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--data FILE", "needs --tokenizer"),
        ("--data FILE --tokenizer scratch --rows 3", "has no option --rows"),
        ("--data FILE --tokenizer scratch", None),
    ],
)
def test_a_wrong_command_would_be_found(arguments: str, why: str | None) -> None:
    assert problem("benchmarks/packing_efficiency.py", arguments) == why


def test_options_that_scripts_share_are_known() -> None:
    assert problem("tests/memory/fsdp2_peaks.py", "--tracker --out FILE") is None
    assert problem("tests/memory/peaks.py", "--tracker --out FILE") == "has no option --tracker"


def test_make_help_lists_every_target() -> None:
    text = (ROOT / MAKEFILE).read_text()
    phony = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)[0].split()
    assert sorted(phony) == sorted(re.findall(r"^([a-z-]+):.*## \w", text, re.MULTILINE))


SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each import from gemfit."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gemfit"):
            yield from ((str(node.module), alias.name) for alias in node.names)


def defines(module: str, name: str) -> bool:
    """Whether a module defines a name, or has a submodule of this name."""
    path = ROOT / ("launch" if module.startswith("gemfit_launch") else "src") / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text()).body if file.is_file() else []
    found = {getattr(node, "name", None) for node in body}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ImportFrom) and path.is_dir():
            found |= {alias.name for alias in node.names}
    return name in found or (path / f"{name}.py").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_names_from_the_modules_that_define_them(script: str) -> None:
    wrong = [f"{module}.{name}" for module, name in imported(ROOT / script) if not defines(module, name)]
    assert not wrong, f"{script}: {wrong}"


def test_a_name_that_has_moved_would_be_found() -> None:
    assert defines("gemfit.schemas.recipe", "Recipe")
    assert not defines("gemfit.schemas.recipe", "DataRecipe")
    assert not defines("gemfit.schemas.gone", "Recipe")
