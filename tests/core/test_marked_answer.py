"""Answers of a process among lines of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.core.marked_answer import find_answers
from gemfit.errors import UserError
from gemfit_launch.runs.python_module import ask_answer

ANSWER = '{"a": "b > c", "ü": [1,\n2]}'
MODULE = f"""
import sys
from gemfit.core.marked_answer import write_answer
print("before", end="")
write_answer({ANSWER!r})
sys.stdout.write("after")
"""
SITE = """
import atexit, io, os, sys
os.write(1, b"\\xff\\xfe banner\\r\\n\\x1b[0m")
atexit.register(lambda: os.write(1, b"[1, 2]\\n"))
sys.stdout = NEW
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that Python imports first."""
    (tmp_path / "asked.py").write_text(MODULE)
    (tmp_path / "silent.py").write_text("print('[3]')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


@pytest.mark.parametrize(
    "new", ["sys.stdout", "sys.stderr", "io.StringIO()", "open(1, 'w', encoding='utf-16')"]
)
def test_an_answer_is_found_whatever_a_site_prints_around_it(new: str, site: Path) -> None:
    (site / "usercustomize.py").write_text(SITE.replace("NEW", new))
    assert ask_answer("asked", []) == ANSWER
    with pytest.raises(UserError, match="silent: gave no answer; it printed"):
        ask_answer("silent", [])


def test_an_answer_that_cannot_be_written_is_a_failure(site: Path) -> None:
    command = f"exec >&-; exec {sys.executable} -m asked"
    assert subprocess.run(["bash", "-c", command], stderr=subprocess.DEVNULL, check=False).returncode != 0


@pytest.mark.parametrize("text", ["", "again", "<gemfit-answer>", "<gemfit-answer>a", "a</gemfit-answer>"])
def test_other_lines_are_no_answer(text: str) -> None:
    assert find_answers(text) == []
