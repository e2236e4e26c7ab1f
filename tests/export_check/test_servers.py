"""``gemfit export --check`` with servers: what their clients get is compared with the run's own model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from gemfit.export_check.expected import ExpectedValues
from gemfit.export_check.probe_serve import wait_until_it_listens
from gemfit.export_check.readers import (
    SCRIPTS,
    SERVERS,
    ExportReader,
    ReaderKind,
    check_reader,
    compare,
    readers_of,
)

PYTHONS = "GEMFIT_TEST_SERVERS"
"""Environment variable: Pythons of environments with servers, separated as in PATH."""


def installed(kind: ReaderKind, exported: Path) -> ExportReader:
    """The reader of an environment that has it; the test is skipped where none has."""
    pythons = [Path(path) for path in os.environ.get(PYTHONS, "").split(os.pathsep) if path]
    reader = next(one for one in readers_of(exported, pythons, {}) if one.kind == kind)
    if reader.absent:
        pytest.skip(f"{reader.name}: {reader.absent}; {PYTHONS} may name the Python of another environment")
    return reader


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SERVERS))
def test_a_server_gives_what_the_run_does(kind: ReaderKind, exported: Path, expected: ExpectedValues) -> None:
    result = check_reader(installed(kind, exported), exported, expected)
    assert result.state == "equal", result.found


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SERVERS))
def test_a_server_of_another_template_is_named(
    kind: ReaderKind, exported: Path, expected: ExpectedValues, tmp_path: Path
) -> None:
    reader, folder = installed(kind, exported), tmp_path / "model"
    shutil.copytree(exported, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ 'x y z' }}")
    result = check_reader(reader, folder, expected)
    assert result.state == "different", result.found
    assert "prompt 1 " in result.found


def served(expected: ExpectedValues, **changes: Any) -> dict[str, Any]:
    """What the client of a server gave."""
    same = {
        "version": "5",
        "prompt_lengths": expected.prompt_lengths,
        "texts": expected.texts,
        "stopped": expected.stopped,
    }
    return same | changes


def test_texts_lengths_and_ends_are_compared(expected: ExpectedValues) -> None:
    assert compare("server", served(expected), expected).state == "equal"
    first, second = expected.prompt_lengths
    for changes, said in (
        (
            {"texts": [expected.texts[0], "no"]},
            f"text of greedy reply 2 is 'no', the run's is {expected.texts[1]!r}",
        ),
        (
            {"prompt_lengths": [first + 1, second]},
            f"number of tokens of prompt 1 is {first + 1}, the run's is {first}",
        ),
        ({"stopped": [True, False]}, "end of greedy reply 1 is True, the run's is False"),
    ):
        result = compare("server", served(expected, **changes), expected)
        assert (result.state, result.found) == ("different", said)


def test_an_environment_without_a_server_is_named(exported: Path, tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho Welcome is-missing:vllm is-missing:fastapi is-missing:openai\n")
    full = tmp_path / "full"
    full.write_text("#!/bin/sh\n")
    for path in (empty, full):
        path.chmod(0o755)
    found = [one for one in readers_of(exported, [empty, full], {}) if one.kind in SERVERS and not one.absent]
    assert {(one.kind, one.python) for one in found} >= {(kind, str(full)) for kind in SERVERS}
    assert str(empty) not in {one.python for one in found}
    (lacking,) = (one for one in readers_of(exported, [empty], {}) if one.kind == "vllm")
    assert lacking.absent.startswith("not installed here: vllm")


def test_every_kind_of_reader_has_a_script() -> None:
    folder = Path(sys.modules[check_reader.__module__].__file__ or "").parent
    assert all((folder / script).is_file() for script in SCRIPTS.values())


def test_a_server_that_ends_says_why() -> None:
    with TemporaryFile("w+") as log:
        script = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
        process = subprocess.Popen(script, stdout=log, stderr=subprocess.STDOUT)
        with pytest.raises(SystemExit, match="transformers serve did not start: no such model"):
            wait_until_it_listens(process, 1, log)
