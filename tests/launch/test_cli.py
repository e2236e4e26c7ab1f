"""The command as a whole: help, errors, and what is imported when."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from gemfit_launch.cli import HEADINGS, VERBS, main

Cli = Callable[..., Result]
HEAVY = {"torch", "transformers", "accelerate", "deepspeed", "datasets", "numpy"}


def command(verb: str) -> click.Command:
    assert isinstance(main, click.Group)
    found = main.get_command(click.Context(main), verb)
    assert found is not None
    return found


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after ``code``."""
    report = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def call_in_process(*arguments: str) -> str:
    return f"from gemfit_launch.cli import main\nmain({list(arguments)!r}, standalone_mode=False)"


def test_help_imports_click_and_none_of_the_libraries_that_verbs_use() -> None:
    modules = modules_after(call_in_process("--help"))
    assert "click" in modules
    assert not modules & (HEAVY | {"pydantic", "ruamel", "rich"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "gemma3/1b-reference", "--gpus", "8", "--json"),
        ("plan", "gemma3/1b-reference", "--gpus", "8"),
        ("recipes", "list"),
        ("version", "--json"),
        ("schema", "recipe"),
    ],
)
def test_no_verb_of_the_launcher_imports_torch_or_numpy(arguments: tuple[str, ...]) -> None:
    modules = modules_after(call_in_process(*arguments))
    assert "pydantic" in modules, "the verb ran"
    assert not modules & HEAVY


def test_importing_every_module_of_the_launcher_imports_nothing_heavy() -> None:
    walk = (
        "import pkgutil, importlib, gemfit_launch as root\n"
        "names = [m.name for m in pkgutil.walk_packages(root.__path__, 'gemfit_launch.')]\n"
        "assert len(names) > 15, names\n"
        "for name in names: importlib.import_module(name)"
    )
    assert not modules_after(walk) & HEAVY


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(verb: str, cli: Cli) -> None:
    result = cli(verb, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    gemfit {verb}" in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_the_line_in_the_general_help_is_the_first_sentence_of_the_verb(verb: str) -> None:
    assert command(verb).get_short_help_str(limit=200).rstrip(".") == VERBS[verb][1]
    assert command(verb).name == verb


def test_general_help_lists_every_verb(cli: Cli) -> None:
    output = cli("--help").output
    assert all(f"\n  {verb} " in output for verb in VERBS)


def test_help_lines_are_short_and_stand_under_headings(cli: Cli) -> None:
    output = cli("--help").output
    assert [output.index(f"\n{heading}:") for heading in HEADINGS] == sorted(
        output.index(f"\n{heading}:") for heading in HEADINGS
    )
    assert len(VERBS) == sum(map(len, HEADINGS.values())) >= 27
    assert all(len(line.split()) <= 6 for _, line in VERBS.values())


def test_an_unknown_verb_suggests_the_closest_one(cli: Cli) -> None:
    result = cli("pln")
    assert result.exit_code == 2
    assert "did you mean 'plan'?" in result.output


def test_a_mistake_is_one_line_on_stderr_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemfit_launch.cli", "plan", "gemma3/1b-referenc"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == "error: gemma3/1b-referenc: there is no such recipe; did you mean 'gemma3/1b-reference'?\n"
    )


def test_a_bug_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gemfit_launch.verbs.recipes.shipped", broken)
    result = cli("recipes", "list")
    assert isinstance(result.exception, ZeroDivisionError)


def test_version_reads_installed_packages_without_importing_them(cli: Cli) -> None:
    versions = json.loads(cli("version", "--json").output)
    assert versions["gemfit"] in cli("--version").output
    assert {"python", "torch", "deepspeed"} <= set(versions)
