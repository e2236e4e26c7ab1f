"""Links, commands, recipe keys and modules in the documents exist; words are those of the glossary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gemfit_launch.cli import main

ROOT = Path(__file__).parents[2]
GENERATED = {"docs/scaling.md", "docs/parity.md"}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
SECTIONS = "batch|data|optim|length|strategy|checkpoint|evaluation|hub|tracking|model"
KEY = rf"(?:{SECTIONS})(?:\.[a-z_]+)+"
SETTING = re.compile(rf"--(?:set|allow-changed|sweep|vary) ({KEY})")
NO_KEY = (".md", ".py", ".json", ".jsonl", ".yaml", ".safetensors", ".sbatch")
RETIRED = re.compile(
    r"\b(talks|atoms?|micro-steps?|held[ -]out|near[ -]cop(?:y|ies)|personal data|effective batch|beside"
    r"|alike|whoever|a person|became of|foretells?|mend|how-manieth|(?<!there )is no [a-z]+)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_lands_on_a_file_and_a_heading(page: str) -> None:
    broken = [link for link in links(read(page)) if not lands(ROOT / page, link)]
    assert not broken, f"{page}: {broken}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_a_verb_and_options_that_exist(page: str) -> None:
    wrong = [f"gemfit {line}: {why}" for line in commands(read(page)) if (why := problem(line))]
    assert not wrong, f"{page}:\n" + "\n".join(wrong)


def test_the_search_for_commands_links_and_keys_finds_them() -> None:
    texts = [read(page) for page in PAGES]
    assert sum(len(list(commands(text))) for text in texts) > 150
    assert sum(len(links(text)) for text in texts) > 80
    assert len(set().union(*map(keys, texts))) > 40


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_key_is_in_the_schema(page: str) -> None:
    allowed = recipe_keys()
    named = {
        key
        for key in keys(read(page))
        if key not in allowed and not any(k.startswith(key + ".") for k in allowed)
    }
    assert not named, f"{page}: {sorted(named)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_module_that_is_named_exists(page: str) -> None:
    spans = "\n".join(re.findall(r"`([^`\n]+)`", without_blocks(read(page))))
    folders = r"(?<![\w/.-])(?:src|launch|tests|slurm|recipes|benchmarks|examples|docs)/[\w./*-]*\w"
    paths = [path for path in re.findall(folders, spans) if not re.search("NAME|/work", path)]
    missing = [path for path in paths if not list(ROOT.glob(path))]
    names = re.findall(r"(?<![\w./-])(gemfit(?:_launch)?(?:\.\w+)+)", spans) + imported(read(page))
    missing += [name for name in names if not name.endswith(("yaml", "json")) and not resolves(name)]
    assert not missing, f"{page}: {missing}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_pages_use_the_words_of_the_glossary(page: str) -> None:
    prose = re.sub(r"`[^`\n]*`|\]\([^)]*\)|\"[^\"\n]*\"", " ", without_blocks(read(page)))
    lines = [line for line in prose.splitlines() if RETIRED.search(line)]
    assert not lines, f"{page}:\n" + "\n".join(lines)


def test_the_glossary_defines_each_word_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", read("docs/glossary.md"), re.MULTILINE)
    assert len(words) > 50
    assert len(words) == len(set(words))
    assert not [word for word in words if RETIRED.search(word)]


def test_the_index_of_the_documents_names_every_page() -> None:
    named = {link.partition("#")[0] for link in links(read("docs/README.md"))}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= named, pages - named


def test_the_design_names_every_folder_of_both_packages() -> None:
    text = read("docs/design.md")
    roots = ["src/gemfit", "src/gemfit/data", "src/gemfit/train", "launch/gemfit_launch"]
    folders = {path.parent.name for root in roots for path in (ROOT / root).glob("*/__init__.py")}
    assert len(folders) > 30
    assert not {name for name in folders if f"`{name}/`" not in text}


def test_each_difference_between_cpus_and_gpus_has_a_test_or_is_said_to_have_none() -> None:
    section = read("docs/design.md").partition("## What differs between CPU and GPU")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|") and "---" not in line]
    rows = [row for row in rows if not row.endswith("| tested by |")]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == [row for row in rows if "nothing without" in row]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    plain = re.sub(r"`[^`\n]*`", "", without_blocks(text))
    found = re.findall(r"\]\(([^)\s]+)\)", plain) + re.findall(r"<img src=\"([^\"]+)\"", plain)
    return [link for link in found if not link.startswith(("http:", "https:", "mailto:"))]


def lands(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """What follows `gemfit` in console blocks and in backticks."""
    blocks = re.findall(r"^```(?:console|bash|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    spans = re.findall(r"`(gemfit [^`\n]+)`", without_blocks(text))
    shown = [re.sub(r"\s+#\s.*", "", line) for line in lines if line.startswith("$") or "--wrap" in line]
    for line in shown + spans:
        yield from re.findall(r"(?<![\w./-])gemfit ([^|;&#]+)", line)


def problem(line: str) -> str | None:
    """Why the words after `gemfit` are not a command; `None` where they are."""
    command: click.Command = main
    context = click.Context(main)
    for word in re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", line).replace("'", " ").split():
        if word.startswith("-") and len(word) > 1:
            option = word.partition("=")[0].rstrip(",.")
            if option not in options(command, context):
                return f"{command.name} has no option {option}"
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
            found = subcommand(command, context, word)
            if found is None:
                return f"there is no {word}"
            command = found
    return None


def subcommand(group: click.Group, context: click.Context, name: str) -> click.Command | None:
    try:
        return group.get_command(context, name)
    except click.UsageError:
        return None


def options(command: click.Command, context: click.Context) -> set[str]:
    found = {
        name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)
    }
    return found | {"-h", "--help"}


def keys(text: str) -> set[str]:
    spans = re.findall(rf"`({KEY})(?=[`:= ])", text) + SETTING.findall(text)
    return {key for key in spans if not key.endswith(NO_KEY)}


def recipe_keys() -> set[str]:
    schema = json.loads(read("docs/schema/recipe.schema.json"))
    return set(dotted(schema, schema["$defs"]))


def dotted(node: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for other in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        yield from dotted(other, definitions, prefix)
    if "$ref" in node:
        yield from dotted(definitions[node["$ref"].rpartition("/")[2]], definitions, prefix)
    for name, inner in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from dotted(inner, definitions, f"{prefix}{name}.")


def imported(text: str) -> list[str]:
    """Names that Python examples import from gemfit."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    found = re.findall(r"^from (gemfit[\w.]*) import (.+)$", code, re.MULTILINE)
    return [f"{module}.{name.strip()}" for module, names in found for name in names.split(",")]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something that its module defines or imports."""
    first, *rest = name.split(".")
    place = ROOT / ("src" if first == "gemfit" else "launch") / first
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    if rest and (place / f"{rest[0]}.py").is_file():
        file = place / f"{rest.pop(0)}.py"
    else:
        file = place / "__init__.py"
    return not rest or re.search(rf"\b{re.escape(rest[0])}\b", file.read_text(encoding="utf-8")) is not None
