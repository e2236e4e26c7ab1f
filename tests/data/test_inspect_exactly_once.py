"""Packs of the real builder, inspected: each trained token once, and all checks pass."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gemfit.data.inspect.__main__ import main

from .conftest import Build, WriteConversations

SCRIPT = Path(__file__).with_name("exactly_once.py")


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The benchmark of the same name, which renders conversations in a way of its own."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pack_conversations(
    plain: ModuleType, build: Build, write_conversations_file: WriteConversations
) -> Callable[..., list[Any]]:
    """Pack 45 conversations, and return them; options go to ``DataRecipe``."""

    def pack(*, seed: int, **options: Any) -> list[Any]:
        entries: list[Any] = plain.make_conversations(45, seed=seed)
        path = write_conversations_file([{"messages": entry} for entry in entries])
        status, said = build(path, **options)
        assert status == 0, said
        return entries

    return pack


@pytest.mark.parametrize("overlong", ["split", "cut"])
@pytest.mark.parametrize("loss_on", ["all", "assistant"])
@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
def test_each_trained_token_of_hostile_and_real_conversations_is_in_the_rows_once(
    format: str,
    loss_on: str,
    overlong: str,
    plain: ModuleType,
    tokenizer: Any,
    pack_conversations: Callable[..., list[Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = pack_conversations(
        seed=3, format=format, loss_on=loss_on, overlong=overlong, seq_len=256, validation_share=0.1
    )
    rows = []
    for split in ("train", "validation"):
        assert main(["inspect", str(tmp_path / "pack"), "--row", "all", "--split", split, "--json"]) == 0
        rows += [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    count = plain.compare(entries, rows, tokenizer.backend_tokenizer, format, loss_on, overlong)
    assert count.sound, count
    assert count.repeated > 0
    assert main(["verify", str(tmp_path / "pack")]) == 0
    assert main(["stats", str(tmp_path / "pack")]) == 0


@pytest.mark.parametrize("overlong", ["truncate", "drop"])
def test_tokens_lost_by_length_are_counted_and_verified(
    overlong: str,
    pack_conversations: Callable[..., list[Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack_conversations(seed=4, overlong=overlong, seq_len=128)
    assert main(["verify", str(tmp_path / "pack")]) == 0
    capsys.readouterr()
    assert main(["stats", str(tmp_path / "pack"), "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["flow"]["total"]
    assert total["truncated" if overlong == "truncate" else "overlong"] > 0
