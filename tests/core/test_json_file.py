"""JSON files that others may have written: damage is an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.core.json_file import files_of_index, read_json_object
from gemfit.errors import UserError


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_object_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: (is|holds) "):
        read_json_object(path)
    with pytest.raises(UserError, match=r"cannot be read: (No such file|Is a dir)"):
        read_json_object(tmp_path / "missing")


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 7}}]
    + [{"weight_map": {"a": name}} for name in ("../x.safetensors", "/etc/passwd", "a/b", "..", "")],
)
def test_an_index_names_files_of_its_folder(index: object, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight_map"):
        files_of_index(path)
    path.write_text(
        json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "1.safetensors"}})
    )
    assert files_of_index(path) == ["1.safetensors", "2.safetensors"]
