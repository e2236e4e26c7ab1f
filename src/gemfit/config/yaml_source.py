"""YAML with positions: every value knows the file and line that it came from.

YAML 1.2 (ruamel.yaml): ``1e-5`` is a number and ``no`` is text. Duplicate keys are refused.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarint import BinaryInt, HexCapsInt, HexInt, OctalInt, ScalarInt
from ruamel.yaml.tag import Tag

from gemfit.errors import UserError

KeyPath = tuple[str | int, ...]
MAX_BYTES = 2**20
"""Recipes and sites have some hundred lines; a larger file is something else."""
MAX_VALUES = 20_000
"""Values of a document with every alias written out: aliases of aliases multiply."""
MAX_ALIASES = 500
"""Each one that merges a mapping copies its keys, before values are counted."""
MAX_DEPTH = 40
MAX_DIGITS = 400
"""Of an integer. Python refuses to print one of more than 4,300 digits."""
STANDARD_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")
}


class RewrittenInt(int):
    """An integer that was written as `0123`, `1_000` or `0x1F`: as text it would be another one."""

    begins_with_zero = False

    @classmethod
    def of(cls, node: ScalarInt) -> RewrittenInt | None:
        """``node`` of ruamel; ``None`` where it was written as its digits."""
        made, form = cls(node), vars(node)
        is_decimal = not isinstance(node, BinaryInt | OctalInt | HexInt | HexCapsInt)
        made.begins_with_zero = is_decimal and (form["_width"] or 0) > len(str(abs(made)))
        return made if made.begins_with_zero or not is_decimal or form["_underscore"] else None


class _Resolver(VersionedResolver):
    """Dates and times stay the text that they are."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return Tag(suffix="tag:yaml.org,2002:str") if str(tag).endswith(":timestamp") else tag


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and for each key path where it was written."""

    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    origin: str = ""

    def place(self, path: KeyPath) -> str:
        """``file:line`` of ``path``, or of the closest parent that was written down."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.origin

    def over(self, base: YamlDocument) -> YamlDocument:
        """This document on top of ``base``: mappings merge key by key, all else is replaced."""
        places = dict(base.places)
        data = _merge(base.data, self.data, (), places)
        return YamlDocument(data, places | self.places, self.origin)


def load(path: Path) -> YamlDocument:
    """Read one YAML mapping; anything else is a ``UserError`` with its position."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: is a device or a pipe, not a YAML file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path}: is larger than {MAX_BYTES // 2**20} MiB, so it is not a recipe or a site"
            )
        # utf-8-sig: an editor's byte-order mark is no part of the first key.
        return parse(path.read_text("utf-8-sig"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{str(path)[:200]}: cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UserError(f"{str(path)!r}: is not a valid path") from None


def parse(text: str, origin: str) -> YamlDocument:
    """Read YAML text; ``origin`` names it in errors."""
    if _open_brackets(text) > 10 * MAX_DEPTH:  # the parser needs long for these
        raise UserError(f"{origin}: is nested more than {MAX_DEPTH} levels deep")
    if len(re.findall(r"\*[^\s*]", text)) > MAX_ALIASES:
        raise UserError(f"{origin}: has more than {MAX_ALIASES} aliases; write out what they stand for")
    yaml = YAML(typ="rt")
    yaml.Constructor, yaml.Resolver = _Constructor, _Resolver
    try:
        tree = yaml.load(text)
    except DuplicateKeyError as error:
        raise UserError(_marked(error, origin) + "; remove one of them") from None
    except MarkedYAMLError as error:
        raise UserError(_marked(error, origin)) from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{origin}: is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{origin}: is nested more than {MAX_DEPTH} levels deep") from None
    if tree is None:
        return YamlDocument({}, {}, origin)
    if not isinstance(tree, Mapping):
        raise UserError(f"{origin}:1: expected `key: value` lines, found {_kind(tree)}")
    reader = _Reader(origin)
    return YamlDocument(reader.plain(tree, ()), reader.places, origin)


def load_extended(path: Path, find: Callable[[str], Path]) -> YamlDocument:
    """Read ``path`` and whatever its ``extends:`` names, recursively; the nearer file wins.

    ``find`` turns a name that is not a file in the folder of ``path`` into a path. Cycles are refused.
    """
    return _extended(path, find, ())


def _extended(path: Path, find: Callable[[str], Path], above: tuple[Path, ...]) -> YamlDocument:
    document = load(path)
    if "extends" not in document.data:
        return document
    name, place = document.data.pop("extends"), document.place(("extends",))
    if not isinstance(name, str):
        raise UserError(f"{place}: extends: expected the name of one recipe, found {name!r}")
    seen = (*above, path.resolve())
    sibling = path.parent / name
    parent = sibling if sibling.is_file() else find(name)
    if parent.resolve() in seen:
        chain = " -> ".join(p.name for p in (*seen, parent))
        raise UserError(f"{place}: extends: the recipes extend each other in a circle: {chain}")
    return document.over(_extended(parent, find, seen))


def _merge(base: Any, top: Any, path: KeyPath, places: dict[KeyPath, str]) -> Any:
    if not _mergeable(base, top):
        for old in [p for p in places if p[: len(path)] == path]:
            del places[old]
        return top
    merged = dict(base)
    for key, value in top.items():
        merged[key] = _merge(base[key], value, (*path, key), places) if key in base else value
    return merged


def _mergeable(base: Any, top: Any) -> bool:
    """Mappings merge, unless they are of different kinds: ZeRO's stage means nothing to FSDP."""
    both = isinstance(base, dict) and isinstance(top, dict)
    return both and top.get("kind", base.get("kind")) == base.get("kind")


class _Constructor(RoundTripConstructor):
    """ruamel's, except that an alias inside of what it stands for is refused: it would be read as null."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node in self.recursive_objects:
            raise ConstructorError(
                problem="an alias stands for what it is in; remove it", problem_mark=node.start_mark
            )
        return super().construct_object(node, deep)


class _Reader:
    """Turns ruamel's tree into plain data, and notes where each value was written."""

    def __init__(self, origin: str) -> None:
        self.places: dict[KeyPath, str] = {}
        self._origin = origin
        self._values = 0

    def plain(self, node: Any, path: KeyPath) -> Any:
        self._check(node, path)
        if isinstance(node, CommentedMap):
            for key in node:
                if not isinstance(key, str) and type(key) is not int:
                    found = str(key)[:40]
                    raise UserError(f"{self._place(path)}: has the key {found}; a key is a word: use quotes")
                if (*path, str(key)) in self.places:  # 1 and "1"
                    raise UserError(
                        f"{self._place(path)}: has the key {str(key)!r} twice; remove one of them"
                    )
                self.places[(*path, str(key))] = f"{self._origin}:{_line_of_key(node, key)}"
            return {str(key): self.plain(value, (*path, str(key))) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                self.places[(*path, index)] = f"{self._origin}:{node.lc.item(index)[0] + 1}"
            return [self.plain(value, (*path, index)) for index, value in enumerate(node)]
        if isinstance(node, bool | ScalarBoolean) or node is None:
            return bool(node) if node is not None else None
        self._check_scalar(node, path)
        if isinstance(node, ScalarInt) and (rewritten := RewrittenInt.of(node)) is not None:
            return rewritten
        if isinstance(node, float) and not math.isfinite(node):
            raise UserError(f"{self._place(path)}: {float(node)} is not a finite number")
        # ruamel keeps formatting in subclasses of int, float and str; the data is what we want.
        for kind in (int, float, str):
            if isinstance(node, kind):
                return kind(node)
        raise UserError(f"{self._place(path)}: is of a kind that has no meaning here; write text or a number")

    def _check(self, node: Any, path: KeyPath) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise UserError(
                f"{self._origin}: has more than {MAX_VALUES:,} values once its aliases are written out; "
                "remove aliases of aliases"
            )
        if len(path) > MAX_DEPTH:
            raise UserError(f"{self._place(path)}: is nested more than {MAX_DEPTH} levels deep")
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag and (str(tag) not in STANDARD_TAGS or isinstance(node, TaggedScalar)):
            raise UserError(f"{self._place(path)}: the tag {str(tag)[:60]} has no meaning here; remove it")

    def _check_scalar(self, node: Any, path: KeyPath) -> None:
        if isinstance(node, int) and abs(int(node)) >= 10**MAX_DIGITS:
            raise UserError(f"{self._place(path)}: is a number of more than {MAX_DIGITS} digits")
        if isinstance(node, str) and re.search("[\ud800-\udfff]", node):
            raise UserError(
                f"{self._place(path)}: has a surrogate (\\uD800 to \\uDFFF), which is no character; "
                "write the character itself"
            )

    def _place(self, path: KeyPath) -> str:
        return YamlDocument({}, self.places, self._origin).place(path)


def _line_of_key(node: CommentedMap, key: Any) -> int:
    """The line of a key, from 1; of a merged one (`<<`) the line of the mapping that it came from."""
    merged = getattr(node.merge, "value", None) or []
    for mapping in (node, *merged):
        if key in (mapping.lc.data or {}):
            return int(mapping.lc.key(key)[0]) + 1
    return int(node.lc.line) + 1


def _open_brackets(text: str) -> int:
    """The most brackets and braces that are open at once, those inside of quotes included."""
    steps = (1 if sign in "[{" else -1 for sign in re.findall(r"[\[\]{}]", text))
    return max(itertools.accumulate(steps), default=0)


def _kind(tree: Any) -> str:
    return "a list" if isinstance(tree, list) else f"the value {str(tree)[:40]!r}"


def _marked(error: MarkedYAMLError, origin: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    return f"{origin}{line}: {(error.problem or error.context or 'is not YAML').splitlines()[0]}"
