"""What may happen to a file: each damage by its name, for files of each form."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]

ODD_VALUES: dict[str, Any] = {
    "null": None, "text": "x", "-1": -1, "list": [], "object": {"a": {}}, "10^30": 10**30, "true": True,
    "path": "../../victim", "number": 0.5,
}  # fmt: skip
"""In place of the value of each key."""


def write(content: bytes, path: Path) -> None:
    remove(path)
    path.write_bytes(content)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def make_circle(path: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def make_dangling(path: Path) -> None:
    remove(path)
    path.symlink_to("missing")


def make_pipe(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def any_damages(content: bytes) -> Iterator[tuple[str, Damage]]:
    """Damages to a file of any form."""
    yield "empty", partial(write, b"")
    yield "cut", partial(write, content[: len(content) * 2 // 3])
    yield "one byte less", partial(write, content[:-1])
    yield "one byte more", partial(write, content + b"\0")
    yield "zeros", partial(write, bytes(len(content) or 8))
    half = len(content) // 2
    yield "zeros at the end", partial(write, content[:half] + bytes(len(content) - half))
    yield "not UTF-8", partial(write, b"\xff\xfe{")
    yield "binary", partial(write, bytes(range(256)))
    yield "deep", partial(write, b"[" * 100_000)
    yield "list", partial(write, b"[]\n")
    yield "number", partial(write, b"7\n")
    yield "large number", partial(write, b"9" * 5000)
    yield "null", partial(write, b"null\n")
    yield "no keys", partial(write, b"{}\n")
    yield "escape sequence", partial(write, b"\x1b]0;owned\x07\x1b[2J")
    yield "missing", remove
    yield "folder", make_folder
    yield "circle of links", make_circle
    yield "link to nothing", make_dangling
    yield "pipe", make_pipe


def key_damages(content: bytes) -> Iterator[tuple[str, Damage]]:
    """Damages to each key of a JSON object, or of the first object in JSON lines."""
    first, rest = content, b""
    try:
        value = json.loads(content)
    except ValueError:
        first, _, rest = content.partition(b"\n")
        try:
            value = json.loads(first)
        except ValueError:
            return
    if not isinstance(value, dict):
        return
    for place in places(value):
        without = json.loads(first)
        holder, key = find(without, place)
        name = ".".join(map(str, place))
        del holder[key]
        yield f"without {name}", partial(write, json.dumps(without).encode() + b"\n" + rest)
        for odd, other in ODD_VALUES.items():
            changed = json.loads(first)
            holder, key = find(changed, place)
            holder[key] = other
            yield f"{name}: {odd}", partial(write, json.dumps(changed).encode() + b"\n" + rest)
    yield (
        "a key from the future",
        partial(write, json.dumps(value | {"from_the_future": 1}).encode() + b"\n" + rest),
    )


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all keys, those of the first entry of each list included."""
    keys = list(value) if isinstance(value, dict) else [0] if isinstance(value, list) and value else []
    for key in keys:
        yield (*above, key)
        yield from places(value[key], (*above, key))


def find(value: Any, place: tuple[Any, ...]) -> tuple[Any, Any]:
    for key in place[:-1]:
        value = value[key]
    return value, place[-1]
