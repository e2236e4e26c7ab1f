"""Marked answers of a process on its standard output.

A site's Python, a wrapper of it or a library may print banners and warnings before and after an answer, and
change ``sys.stdout``. The job scripts read the same marks.
"""

from __future__ import annotations

import re
import sys
from typing import Final

STDOUT: Final = 1
_ANSWER = re.compile(r"<gemfit-answer>(.*?)</gemfit-answer>", re.DOTALL)


def write_answer(text: str) -> None:
    """Write ``text`` between marks to the standard output of this process; an ``OSError`` if it is closed."""
    sys.stdout.flush()
    with open(STDOUT, "wb", closefd=False) as stream:
        stream.write(f"\n<gemfit-answer>{text}</gemfit-answer>\n".encode())


def find_answers(printed: str) -> list[str]:
    """The answers in what a process has printed."""
    return _ANSWER.findall(printed)
