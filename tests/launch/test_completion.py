"""Shell completion, through the protocol of click: the words of a line in, the candidates out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.shell_completion import get_completion_class
from click.testing import Result

from gemfit.config.overrides import with_settings
from gemfit.config.yaml_source import YamlDocument
from gemfit.schemas.recipe import Recipe
from gemfit_launch.cli import main
from gemfit_launch.verbs._completion import recipe_keys

Cli = Callable[..., Result]
SHELLS = ("bash", "zsh", "fish")


def complete(shell: str, line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the shell is offered for the last word of ``line``."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    monkeypatch.setenv("COMP_WORDS", line)
    # fish names the last word itself, the others its place.
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words) - 1))
    completer = get_completion_class(shell)
    assert completer is not None
    args, incomplete = completer(main, {}, "gemfit", "_GEMFIT_COMPLETE").get_completion_args()
    items = completer(main, {}, "gemfit", "_GEMFIT_COMPLETE").get_completions(args, incomplete)
    return [item.value for item in items]


@pytest.mark.parametrize("shell", SHELLS)
def test_recipe_names_complete_after_a_prefix(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("run", "plan", "submit", "estimate", "recipes show"):
        names = complete(shell, f"gemfit {verb} gemma3/1b", monkeypatch)
        assert "gemma3/1b-reference" in names, verb
        assert all(name.startswith("gemma3/1b") for name in names)


@pytest.mark.parametrize("shell", SHELLS)
def test_keys_of_a_recipe_complete_after_set(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = complete(shell, "gemfit run gemma3/1b --set optim.l", monkeypatch)
    assert keys == ["optim.learning_rate="]
    assert "seed=" in complete(shell, "gemfit submit gemma3/1b --sweep ", monkeypatch)
    assert "strategy.reshard_after_forward=" in complete(shell, "gemfit resume x --set strat", monkeypatch)
    assert complete(shell, "gemfit resume x --allow-changed se", monkeypatch) == ["seed"]


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_and_checkpoints_complete(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(shell, "gemfit est", monkeypatch) == ["estimate"]
    assert complete(shell, "gemfit chat x --checkpoint ", monkeypatch) == ["latest", "best", "base"]
    assert complete(shell, "gemfit push x --checkpoint ", monkeypatch) == ["latest", "best"]


def test_every_offered_key_is_one_that_set_takes() -> None:
    keys = list(recipe_keys())
    assert len(keys) > 50
    assert len(keys) == len(set(keys))
    for key in keys:
        with_settings(Recipe, YamlDocument({}, {}, "test"), (f"{key}=null",))


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_the_command_and_its_variable(shell: str, cli: Cli) -> None:
    result = cli("completion", shell)
    assert result.exit_code == 0
    assert "_GEMFIT_COMPLETE" in result.output


def test_no_space_follows_a_key_that_waits_for_its_value(cli: Cli) -> None:
    assert "compopt -o nospace" in cli("completion", "bash").output
    assert "-S ''" in cli("completion", "zsh").output


def test_completion_imports_no_torch() -> None:
    words = "gemfit run gemma3/1b --set optim."
    code = (
        "import sys\nfrom gemfit_launch.cli import main\n"
        "try: main(prog_name='gemfit')\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    environment = os.environ | {
        "_GEMFIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": "4",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "plain,optim.learning_rate=" in done.stdout.splitlines()
