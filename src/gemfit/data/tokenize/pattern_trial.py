"""Trial of a tokenizer's regular expressions, in a process that can be ended.

``tokenizers`` matches them by backtracking, inside a call that neither a signal nor another thread can end:
a pattern such as ``(a+)+b`` takes longer than anybody waits, and one with nested counts more memory than
there is. ``python -P pattern_trial.py TOKENIZER.json`` encodes texts that such patterns do badly on.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

CPU_SECONDS = 20
"""Time limit of a trial, whatever else the machine does; patterns in use take less than a second of it."""
SECONDS = 120.0
"""The same on the clock."""
MEMORY_BYTES = 16 * 2**30
"""Limit of its address space, most of which is never touched."""
MAX_BYTES = 2**29
"""Of a ``tokenizer.json``: the largest known one has 33 MB, and is 20 times as large in memory."""
REPEATS = 2000
UNITS = ("a", "A", "1", " ", "\n", "\t", ".", "'", "▁", "ä", "漢", "aA", "a1", "a ", ". ", " \n", "ab'")
ENDS = ("", "!", "\n", "x")
HARMLESS = (r"\n+",)
"""Of tokenizers that gemfit trains."""
_PATTERN = re.compile(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")')
"""In a vocabulary, an entry of this name has a number."""
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7][0-9A-Fa-f]")
"""Nothing that writes JSON escapes letters of ASCII; one in ``"Regex"`` would hide a pattern."""


def check_tokenizer_file(path: Path) -> None:
    """``UserError`` for a ``tokenizer.json`` that cannot be read within limits of time and memory.

    The trial, of files with patterns that are not known, takes a second; a good result is cached.
    """
    from gemfit.errors import UserError  # noqa: PLC0415  (the trial imports nothing of gemfit)

    if not path.is_file():
        raise UserError(f"{path}: is no regular file; copy the tokenizer again")
    check_size(path)
    content = path.read_bytes()
    patterns = [_text(found) for found in _PATTERN.findall(content)]
    if set(patterns) <= set(HARMLESS) and not _ESCAPED_LETTER.search(content):
        return
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if _was_tried(digest):
        return
    if (fault := _try(path)) is not None:
        shown = ", ".join(repr(pattern[:60]) for pattern in sorted({*patterns} - {*HARMLESS}))
        raise UserError(f"{path}: {fault}; change its patterns ({shown}), or use another tokenizer")
    _note(digest)


def check_size(path: Path) -> None:
    """``UserError`` for a file of a tokenizer that is too large to be one; none where there is no file."""
    from gemfit.errors import UserError  # noqa: PLC0415  (as above)

    if path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(f"{path}: has {size:,} bytes, and no tokenizer has more than {MAX_BYTES:,}")


def _text(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:  # which the library will refuse
        return repr(quoted)


def _try(path: Path) -> str | None:
    """What went wrong; ``None`` where every text was encoded."""
    from gemfit.core.process_group import run_with_children  # noqa: PLC0415  (as above)

    too_slow = f"splitting a text of {REPEATS:,} characters takes it more than {CPU_SECONDS} seconds"
    try:
        done = run_with_children([sys.executable, "-P", __file__, str(path)], seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return too_slow
    if done.returncode == -signal.SIGXCPU:
        return too_slow
    if done.returncode < 0:
        return f"reading it ends the process by {signal.Signals(-done.returncode).name}"
    # Damage is for the one who loads it to name.
    return (done.stderr.strip().splitlines() or ["its patterns fail"])[-1] if done.returncode == 3 else None


def _was_tried(digest: str) -> bool:
    return _verdict_file(digest).is_file()


def _note(digest: str) -> None:
    from gemfit.core.atomic_file import write_atomic  # noqa: PLC0415  (as above)

    path = _verdict_file(digest)
    with suppress(OSError):  # without a cache it is tried again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "")


def _verdict_file(digest: str) -> Path:
    from gemfit.schemas.pack_job import cache_folder  # noqa: PLC0415  (as above)

    return cache_folder() / "tokenizers" / f"{digest}-{version('tokenizers')}.tried"


def main() -> int:
    """Load and encode; exit status 3 where that fails, 0 where the file itself is damaged."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tokenizers import Tokenizer  # noqa: PLC0415  (after the limits)

    try:
        tokenizer = Tokenizer.from_file(sys.argv[1])
    except Exception:  # the Rust side raises nothing narrower
        return 0
    try:
        for unit in UNITS:
            for end in ENDS:
                tokenizer.encode(unit * (REPEATS // len(unit)) + end, add_special_tokens=False)
    except BaseException as error:  # a panic is no Exception
        why = str(error).splitlines() or ["no details"]
        sys.stderr.write(f"\nits patterns fail: {why[0]}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
