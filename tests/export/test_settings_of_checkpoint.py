"""Configuration files of a checkpoint that others have written: an export names what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemfit.errors import UserError
from gemfit.export import export as module

NO_RECIPE: Any = None
"""Errors come before it is read."""


@pytest.mark.parametrize(
    "stops", ["x", [None], [1, "a"], [1.5], [[1]], {"a": 1}, [True], -1, [1, -2], [1, 100]]
)
def test_stops_that_are_no_token_ids_are_named(stops: Any, tmp_path: Path) -> None:
    (tmp_path / module.CONFIG).write_text(json.dumps({"vocab_size": 100}))
    (tmp_path / module.GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": stops}))
    with pytest.raises(
        UserError, match=r"generation_config\.json: eos_token_id is .*; it is a token id below 100 "
    ):
        module._write_generation_config(NO_RECIPE, None, tmp_path, tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_what_is_no_configuration_is_named(content: str, tmp_path: Path) -> None:
    for name in (module.CONFIG, module.GENERATION_CONFIG):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"/config\.json: "):
        module._write_config(tmp_path, tmp_path, "float32")
    with pytest.raises(UserError, match=r"generation_config\.json: "):
        module._write_generation_config(NO_RECIPE, None, tmp_path, tmp_path)


def test_an_export_names_no_code(tmp_path: Path) -> None:
    config = {"model_type": "gemma3_text", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / module.CONFIG).write_text(json.dumps(config))
    out = tmp_path / "out"
    out.mkdir()
    module._write_config(tmp_path, out, "float32")
    written = json.loads((out / module.CONFIG).read_text())
    assert written == {
        "model_type": "gemma3_text",
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
