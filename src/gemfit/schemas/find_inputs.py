"""Input files that a source names: a file, a folder or a glob, and what of them is passed over, and why."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from gemfit.errors import UserError
from gemfit.schemas.source_file import COMPRESSION_SUFFIXES, KIND_SUFFIXES, compression_by_name, kind_by_name

READ = f"{', '.join(KIND_SUFFIXES)}; all but .parquet also with {', '.join(COMPRESSION_SUFFIXES)}"
SAVED_MARKS = ("state.json", "dataset_dict.json")
"""Files that ``save_to_disk`` of ``datasets`` writes."""
_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json"})
_DESCRIPTOR = re.compile(r"-|/dev/stdin|/dev/fd/\d+|/proc/(self|\d+)/fd/\d+")
"""Names of open files of one process, which another may not have."""
_SHOWN = 8


@dataclass(slots=True)
class FoundInputs:
    """The files of one source, and those that were passed over."""

    files: list[Path] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    hidden: int = 0

    def note(self, source: str) -> str:
        """One line: what is read, and what is not."""
        kinds = Counter(_suffix(path) for path in self.files)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
        parts = [f"{source}: " + (f"files that are read: {listed}" if listed else "no file is read")]
        if self.passed_over:
            shown = ", ".join(f"{printable(name)} ({why})" for name, why in self.passed_over[:_SHOWN])
            more = len(self.passed_over) - _SHOWN
            parts.append(f"passed over: {shown}" + (f" and {more} more" if more > 0 else ""))
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return "; ".join(parts)


def find_inputs(source: str | None) -> tuple[list[Path], str | None]:
    """The files that a source stands for, sorted by path, and a line about those of a folder or glob.

    Hidden files and folders are left out, linked folders are read once, names count in any case.
    """
    if not source:
        raise UserError("data.source is not set; pass --data FILE.jsonl or write data.source in the recipe")
    check_name(source)
    path = path_of(source)
    if is_url(source):
        raise UserError(
            f"{shown_url(source)}: is remote; `gemfit pack --data URL` downloads it, and prints the "
            "name of the file for other commands"
        )
    if is_stream(source):
        raise UserError(
            f"{source}: is a pipe or device, which can be read once only; `gemfit pack --data -` keeps a "
            "copy of standard input, or write it to a file"
        )
    if path.is_dir():
        found = _in_folder(path)
    elif glob.has_magic(source) and not path.exists():
        found = _in_glob(str(path))
    elif path.is_file():
        if kind_by_name(path.name) is None:
            raise UserError(f"{source}: is not a kind of file that is read ({READ}); convert or rename it")
        return [path], None
    else:
        raise UserError(f"{source}: there is no such file or folder; data.source names the conversations")
    if not found.files:
        raise UserError(f"{found.note(source)}; what is read: {READ}")
    for file in found.files:
        check_name(str(file))
    found.files.sort()
    return found.files, found.note(source)


def path_of(source: str) -> Path:
    """The path of a name; ``UserError`` for one that no file can have, such as a very long one."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # the last: no home of that user
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{source[:60]!r}: cannot be the name of a file: {reason}") from None
    return path


def find_files(source: str | None) -> list[Path]:
    """The files of ``find_inputs``."""
    return find_inputs(source)[0]


def is_stream(source: str) -> bool:
    """Whether a source is standard input, a pipe or a device, and no file or folder."""
    if _DESCRIPTOR.fullmatch(source):
        return True
    path = path_of(source)
    return path.exists() and not path.is_file() and not path.is_dir()


def is_url(source: str) -> bool:
    """Whether a source is on another machine, such as `https://…` or `s3://…`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def shown_url(url: str) -> str:
    """A URL without user, password and query, which may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return f"{url.partition('://')[0]}://…"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` wrote the folder."""
    return any((folder / name).is_file() for name in SAVED_MARKS)


def check_name(name: str) -> None:
    """``UserError`` for a name that is not UTF-8: it could be stored in no JSON file."""
    if printable(name) != name:
        raise UserError(f"{printable(name)}: the name is not UTF-8; rename it (convmv, or mv)")


def printable(name: str) -> str:
    """A name with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _in_glob(pattern: str) -> FoundInputs:
    found = FoundInputs()
    for name in _in_tree(pattern, found) if "**" in Path(pattern).parts else glob.glob(pattern):
        if Path(name).is_dir():
            continue
        _sort_in(found, Path(name), name)
    return found


def _in_tree(pattern: str, found: FoundInputs) -> list[str]:
    """What a pattern with `**` matches; ``glob`` would follow links to folders round and round."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        return []
    paths = _tree(root, found)
    return [str(path) for path in paths if _matches(path.relative_to(root).parts, parts[fixed:])]


def _matches(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[start:], patterns[1:]) for start in range(len(parts) + 1))
    fits = bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0])
    return fits and _matches(parts[1:], patterns[1:])


def _in_folder(folder: Path) -> FoundInputs:
    if is_saved(folder):
        raise UserError(f"{folder}: was written by save_to_disk of datasets; give it as hf:{folder}")
    found = FoundInputs()
    files = _tree(folder, found)
    own = {_identity(path) for path in files if not path.is_symlink()}
    for path in files:
        name = str(path.relative_to(folder))
        if path.is_symlink() and path.exists() and _identity(path) in own:
            found.passed_over.append((name, "a link to a file that is read"))
        else:
            _sort_in(found, path, name)
    return found


def _tree(folder: Path, found: FoundInputs) -> list[Path]:
    """Everything below a folder but folders; linked ones are read once."""
    linked: list[Path] = []
    visited: set[tuple[int, int]] = set()
    files = list(_walk(folder, found, linked, visited))
    while linked:
        link = linked.pop(0)
        if _identity(link) in visited:
            found.passed_over.append((str(link.relative_to(folder)), "a link to a folder that is read"))
        else:
            files += _walk(link, found, linked, visited)
    return files


def _walk(
    folder: Path, found: FoundInputs, linked: list[Path], visited: set[tuple[int, int]]
) -> Iterator[Path]:
    """Everything below a folder but folders; links to folders are put into ``linked``."""
    visited.add(_identity(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            found.hidden += 1
        elif not path.is_dir():  # unlike that of the entry, False for a link to itself
            yield path
        elif entry.is_symlink():
            linked.append(path)
        elif _identity(path) not in visited:  # a link led to a folder around one that was read
            yield from _walk(path, found, linked, visited)


def _suffix(path: Path) -> str:
    """Such as `.jsonl.gz`."""
    is_compressed = compression_by_name(path.name) is not None
    return "".join(path.suffixes[-2 if is_compressed else -1 :]).lower()


def _sort_in(found: FoundInputs, path: Path, name: str) -> None:
    """Put a file among those that are read, or those that are not."""
    if not path.exists():
        why = "a broken link"
    elif not path.is_file():
        why = "not a regular file"
    elif path.name in _NO_DATA:
        why = "about a dataset"
    elif kind_by_name(path.name) is None:
        why = "unknown kind"
    else:
        found.files.append(path)
        return
    found.passed_over.append((name, why))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
