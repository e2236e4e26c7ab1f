"""Run a program in forked processes, each of which fails at another change that it makes below a folder.

``python write_faults.py CASE.json``: the case has ``module`` (with a ``main``), ``argv``, ``folder`` (whose
changes count), ``final`` (what is written there), ``kinds`` of faults and ``every`` (1: at every change).
Prints one line of JSON for each fault: ``kind``, ``change`` (its number), ``event``, ``status`` of the
process, ``final`` (``nothing``, ``whole`` or ``half``) and ``hidden`` files after it, and ``again``: the
same after the program has run once more.

A change is an audit event of Python: opening a file for writing, making, renaming and removing. What
libraries in Rust write lies between two of them.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO}
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> None:
    """Read the case, and print what each fault has led to."""
    case = json.loads(Path(sys.argv[1]).read_text())
    action = importlib.import_module(case["module"]).main
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        action(case["argv"])  # in this process, so that the forked ones need not import anything
    expected = content(Path(case["final"]))
    remove(Path(case["final"]))
    number, kinds = 0, itertools.cycle(case["kinds"])
    while True:
        number, kind = number + case["every"], next(kinds)
        status, event = run(case, action, kind, number)
        if event is None:
            break
        found = {"kind": kind, "change": number, "event": event, "status": status, **seen(case, expected)}
        run(case, action, None, 0)
        sys.stdout.write(json.dumps(found | {"again": seen(case, expected)}) + "\n")
        remove(Path(case["final"]))


def seen(case: dict[str, Any], expected: dict[str, str]) -> dict[str, Any]:
    """What is at the final name, and what hidden files there are."""
    found = content(Path(case["final"]))
    state = "nothing" if not found else "whole" if found == expected else "half"
    hidden = [path.name for path in Path(case["folder"]).rglob(".*") if path.suffix != ".lock"]
    return {"final": state, "hidden": sorted(hidden)}


def content(path: Path) -> dict[str, str]:
    """Digest by name of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def run(case: dict[str, Any], action: Any, kind: str | None, number: int) -> tuple[int, str | None]:
    """Exit status of the program with a fault at its change ``number``, and the event that failed."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        fail_at(kind, number, case["folder"], writer)
        status = 1
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                status = action(case["argv"])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        event = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), event or None


def fail_at(kind: str | None, number: int, folder: str, report: int) -> None:
    """Let this process fail at a change; its event is written to ``report`` first."""
    left = iter(range(number, 0, -1))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if kind is None or not any(name.startswith(folder) for name in changed(event, arguments)):
            return
        if next(left, 0) != 1:
            return
        os.write(report, event.encode())
        if kind in ERRORS:
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), str(arguments[0]))
        os.kill(os.getpid(), getattr(signal, kind))

    sys.addaudithook(hook)


def changed(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """The paths that an event changes."""
    if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
        yield from (os.fsdecode(name) for name in arguments[:2] if isinstance(name, str | bytes))


if __name__ == "__main__":
    main()
