"""Reading finished packs: rows by number, damage, other readers of the files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset, load_from_disk

from gemfit.data.inspect.__main__ import main
from gemfit.data.pack.reader import open_pack
from gemfit.errors import UserError

from .conftest import Build, WriteConversations, random_conversations


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return random_conversations(300, seed=5)


def test_an_empty_validation_split_is_reported_and_can_be_opened(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    status, printed = build(write_conversations_file(lines), validation_share=0.0)
    assert status == 0
    assert "validation: empty, so there will be no evaluation" in printed
    assert len(load_from_disk(str(tmp_path / "pack/validation"))) == 0
    assert len(open_pack(tmp_path / "pack", "validation")) == 0
    assert open_pack(tmp_path / "pack", "validation").trained_tokens.shape == (0,)


def test_rows_in_many_shards_are_one_dataset(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemfit.data.build.shards.SHARD_BYTES", 8 * 128 * 10)
    monkeypatch.setattr("gemfit.data.build.shards.BATCH_BYTES", 8 * 128 * 4)
    assert build(write_conversations_file(lines), seq_len=128)[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    shards = sorted(path.name for path in (tmp_path / "pack/train").glob("*.arrow"))
    assert len(shards) == -(-len(rows) // 10) > 3
    assert shards[-1] == f"data-{len(shards) - 1:05d}-of-{len(shards):05d}.arrow"
    dataset = load_from_disk(str(tmp_path / "pack/train"))
    assert len(dataset) == len(rows)
    for index in range(len(rows)):
        assert rows[index].input_ids.tolist() == dataset[index]["input_ids"]
        assert rows[index].labels.tolist() == dataset[index]["labels"]
        assert rows[index].seq_lengths.tolist() == dataset[index]["seq_lengths"]
    assert rows.tokens.tolist() == dataset["tokens"][:]
    by_files = load_dataset("arrow", data_files=str(tmp_path / "pack/train/*.arrow"), split="train")
    assert by_files[len(rows) - 1]["input_ids"] == rows[len(rows) - 1].input_ids.tolist()


def test_a_folder_that_is_not_a_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a finished pack .* `gemfit pack`"):
        open_pack(tmp_path, "train")


def test_damaged_files_are_found(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build(write_conversations_file(lines))[0] == 0
    pack = tmp_path / "pack"
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, validation"):
        open_pack(pack, "test")
    shard = pack / "train/data-00000-of-00001.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100] + b"\x01" + whole[-99:])
    assert main(["verify", str(pack)]) == 2
    assert "is not what was packed" in capsys.readouterr().err
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="pack"):
        open_pack(pack, "train")
    shard.unlink()
    assert main(["verify", str(pack)]) == 2
    assert "is missing" in capsys.readouterr().err


def test_rows_are_pickled_as_a_path(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    assert build(write_conversations_file(lines))[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    assert len(pickle.dumps(rows)) < 500
    again = pickle.loads(pickle.dumps(rows))
    assert again[0].input_ids.tolist() == rows[0].input_ids.tolist()
    with pytest.raises(IndexError, match=f"row {len(rows)} of"):
        rows[len(rows)]
