"""YAML with positions: what is read, what is refused, and where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.config.yaml_source import RewrittenInt, YamlDocument, load, load_extended, parse
from gemfit.errors import UserError


def nothing_else(name: str) -> Path:
    raise UserError(f"{name}: there is no such recipe")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_every_value_knows_its_line() -> None:
    document = parse("a: 1\nb:\n  c: x\n  d: [1,\n    2]\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": "x", "d": [1, 2]}}
    assert document.place(("a",)) == "f.yaml:1"
    assert document.place(("b", "c")) == "f.yaml:3"
    assert document.place(("b", "d", 1)) == "f.yaml:5"


def test_the_place_of_what_was_not_written_is_that_of_its_parent() -> None:
    document = parse("a: 1\nb:\n  c: x\n", "f.yaml")
    assert document.place(("b", "missing")) == "f.yaml:2"
    assert document.place(("missing",)) == "f.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("0o17", 15),
        ("017", 17),
        ("1_000", 1000),
        ("'1'", "1"),
        ("1.0", 1.0),
        ("12:30", "12:30"),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text: str, value: object) -> None:
    read = parse(f"key: {text}", "f.yaml").data["key"]
    assert read == value
    # Not subclasses that remember formatting; one tells that a number is not written as its digits.
    assert type(read) is (RewrittenInt if text in ("0o17", "017", "1_000") else type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r'f\.yaml:3: found duplicate key "a".*remove one of them'),
        ("a: [1, 2\nb: 3\n", r"f\.yaml:\d: "),
        ("a: 1\n\tb: 2\n", r"f\.yaml:2: "),
        ("- a\n- b\n", r"f\.yaml:1: expected `key: value` lines, found a list"),
        ("just text", r"f\.yaml:1: expected `key: value` lines, found the value 'just text'"),
        ("a: 1\n---\nb: 2\n", r"f\.yaml:\d: "),
        ("a: *nowhere\n", r"f\.yaml:1: .*undefined alias"),
    ],
)
def test_what_is_not_a_mapping_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text, "f.yaml")


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert parse("# only a comment\n", "f.yaml").data == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8 text .* at byte 0"), (b"a: \x00\n", "is not YAML|:1: ")],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: there is no such file"):
        load(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match="is a folder, not a YAML file"):
        load(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load(path).data == {"a": 1, "b": 2}


def test_the_nearer_file_wins_key_by_key_and_places_follow(tmp_path: Path) -> None:
    write(tmp_path, base="x: {a: 1, b: 2}\ny: [1, 2]\n", top="extends: base.yaml\nx:\n  b: 3\ny: [9]\n")
    document = load_extended(tmp_path / "top.yaml", nothing_else)
    assert document.data == {"x": {"a": 1, "b": 3}, "y": [9]}
    assert document.place(("x", "a")) == f"{tmp_path / 'base.yaml'}:1"
    assert document.place(("x", "b")) == f"{tmp_path / 'top.yaml'}:3"


def test_extends_reaches_over_several_files(tmp_path: Path) -> None:
    write(tmp_path, a="v: 1\nw: 1\n", b="extends: a.yaml\nw: 2\n", c="extends: b.yaml\nz: 3\n")
    assert load_extended(tmp_path / "c.yaml", nothing_else).data == {"v": 1, "w": 2, "z": 3}


@pytest.mark.parametrize(
    "files",
    [{"a": "extends: a.yaml"}, {"a": "extends: b.yaml", "b": "extends: c.yaml", "c": "extends: a.yaml"}],
)
def test_recipes_that_extend_each_other_are_refused_with_the_circle(
    files: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path, **files)
    with pytest.raises(UserError, match=r"yaml:1: extends: .* in a circle: a\.yaml -> .*a\.yaml"):
        load_extended(tmp_path / "a.yaml", nothing_else)


def test_extends_takes_one_name(tmp_path: Path) -> None:
    write(tmp_path, a="extends: [b, c]\n")
    with pytest.raises(UserError, match=r"a\.yaml:1: extends: expected the name of one recipe"):
        load_extended(tmp_path / "a.yaml", nothing_else)


def test_an_unknown_parent_is_the_error_of_the_finder(tmp_path: Path) -> None:
    write(tmp_path, a="extends: gone\n")
    with pytest.raises(UserError, match="gone: there is no such recipe"):
        load_extended(tmp_path / "a.yaml", nothing_else)


def test_mappings_of_different_kinds_replace_each_other() -> None:
    base = parse("s: {kind: deepspeed, stage: 3}\n", "base.yaml")
    merged = parse("s: {kind: fsdp2}\n", "top.yaml").over(base)
    assert merged.data == {"s": {"kind": "fsdp2"}}
    assert merged.place(("s", "stage")) == "top.yaml:1", "nothing of the old kind remains"


def test_mappings_of_the_same_or_no_kind_merge() -> None:
    base = parse("s: {kind: deepspeed, stage: 3}\n", "base.yaml")
    assert parse("s: {kind: deepspeed, x: 1}", "t").over(base).data["s"] == {
        "kind": "deepspeed",
        "stage": 3,
        "x": 1,
    }
    assert parse("s: {stage: 1}", "t").over(base).data["s"] == {"kind": "deepspeed", "stage": 1}


def test_a_mapping_of_some_kind_replaces_text() -> None:
    base = parse("s: ddp\n", "base.yaml")
    assert parse("s: {kind: fsdp2}", "t").over(base).data == {"s": {"kind": "fsdp2"}}


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(base=mappings, top=mappings)
def test_merging_keeps_all_of_the_top_and_changes_neither(
    base: dict[str, object], top: dict[str, object]
) -> None:
    before = repr((base, top))
    merged = YamlDocument(top).over(YamlDocument(base)).data
    assert YamlDocument(top).over(YamlDocument(merged)).data == merged
    assert set(merged) == set(base) | set(top)
    assert repr((base, top)) == before


def test_merge_keys_are_merged_and_know_the_line_that_they_came_from() -> None:
    text = "a: &a\n  x: 1\n  y: 2\nb: {<<: *a, y: 3}\nc:\n  <<: {z: 4}\n<<: *a\n"
    document = parse(text, "f.yaml")
    assert document.data == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"z": 4}, "x": 1, "y": 2
    }  # fmt: skip
    places = [("b", "x"), ("b", "y"), ("c", "z"), ("x",)]
    assert [document.place(place) for place in places] == ["f.yaml:2", "f.yaml:4", "f.yaml:6", "f.yaml:2"]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "once its aliases are written out"),
        ("a: " + "[" * 60 + "]" * 60, "f.yaml:1: is nested more than 40 levels deep"),
        ("{a: " * 3000 + "1" + "}" * 3000, "is nested more than 40 levels deep"),
        ("x: 1\na: !foo bar\n", "f.yaml:2: the tag !foo has no meaning here; remove it"),
        ("a: !!python/object/apply:os.system ['id']\n", "f.yaml:1: the tag .*os.system has no meaning"),
        ("a: !!binary aGVsbG8=\n", "f.yaml:1: "),
        ("? [a, b]\n: 1\n", "a key is a word"),
        ("a: " + "9" * 5000 + "\n", "is not YAML"),
        ("a: 0x" + "f" * 5000 + "\n", "f.yaml:1: is a number of more than 400 digits"),
        ("a: &a {x: 1}\nb:\n  <<: [" + "*a, " * 501 + "]\n", "has more than 500 aliases"),
        ("a: &a [1, [*a]]\n", "f.yaml:1: an alias stands for what it is in"),
        ("a: &a\n  <<: *a\n  b: 1\n", "f.yaml:1: an alias stands for what it is in"),
        ('a: "\\uD800"\n', "f.yaml:1: has a surrogate"),
        ('a:\n  1: x\n  "1": y\n', "f.yaml:1: has the key '1' twice"),
        ("x: 1\na: [1, .nan]\n", "f.yaml:2: nan is not a finite number"),
        ("a: -.inf\n", "f.yaml:1: -inf is not a finite number"),
        ("a: 1e400\n", "f.yaml:1: inf is not a finite number"),
        ("null: x\nNone: y\n", "f.yaml: has the key None; a key is a word"),
    ],
    ids=[
        "aliases of aliases",
        "deep",
        "very deep",
        "tag",
        "Python",
        "binary",
        "list as a key",
        "huge number",
        "huge hexadecimal number",
        "many merges",
        "alias of itself",
        "merge of itself",
        "surrogate",
        "a number and its text as keys",
        "no number",
        "infinity",
        "too large for a float",
        "null and its text as keys",
    ],
)
def test_what_could_exhaust_the_reader_or_has_no_meaning_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse(text, "f.yaml")


def test_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("a: 1\n" * 400_000)
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (Path("/dev/zero"), "a device or a pipe"),
        (tmp_path / "pipe", "a device or a pipe"),
        (tmp_path / ("x" * 300), "name too long"),
        (Path("a\0b"), "is not a valid path"),
        (large, "larger than 1 MiB"),
    ):
        with pytest.raises(UserError, match=f"(?i){reason}"):
            load(path)
