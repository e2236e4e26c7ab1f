"""A validation split of one's own: packed as it is, its copies left out of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.pack.reader import read_manifest
from gemfit.schemas.pack_job import PackJob

from .conftest import Build, random_conversations


def test_an_own_validation_split_is_packed_and_its_copies_are_not_trained(
    build: Build, tmp_path: Path
) -> None:
    conversations = random_conversations(80, seed=4)
    validation, training = conversations[:20], conversations[20:]
    loud = json.loads(json.dumps(conversations[3]))
    for message in loud["messages"]:
        message["content"] = message["content"].upper()
    for name, rows in (("v", validation), ("t", [*training, conversations[1], conversations[1], loud])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, printed = build(tmp_path / "t.jsonl", validation=str(tmp_path / "v.jsonl"), seq_len=2048)
    assert status == 0, printed
    manifest = read_manifest(tmp_path / "pack")
    assert manifest.splits["validation"].conversations == 20
    assert manifest.splits["train"].conversations == 60
    assert manifest.losses.also_in_validation == 3
    v, t = tmp_path / "v.jsonl", tmp_path / "t.jsonl"
    lines = (tmp_path / "pack/also_in_validation.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {"place": f"{t}:{61 + index}", "in_validation": f"{v}:{line}"} for index, line in enumerate([2, 2, 4])
    ]
    assert "also in validation: 3" in printed
    assert f"  {t}:63 is in validation as {v}:4" in printed
    assert [(source.name, source.is_validation) for source in manifest.sources] == [
        (str(tmp_path / "v.jsonl"), True),
        (str(tmp_path / "t.jsonl"), False),
    ]
    with pa.ipc.open_stream(tmp_path / "pack" / "conversations.arrow") as reader:
        table = reader.read_all().to_pydict()
    splits = {(source, split) for source, split in zip(table["source"], table["split"], strict=True)}
    assert splits == {(0, 1), (1, 0), (1, -1)}


def test_a_copy_of_validation_in_a_json_array_is_listed_by_its_index(build: Build, tmp_path: Path) -> None:
    conversations = random_conversations(12, seed=5)
    validation, training = tmp_path / "v.jsonl", tmp_path / "t.json"
    validation.write_text("".join(json.dumps(row) + "\n" for row in conversations[:4]))
    training.write_text(json.dumps(conversations[3:]))
    status, printed = build(training, validation=str(validation), seq_len=2048)
    assert status == 0, printed
    (line,) = (tmp_path / "pack/also_in_validation.jsonl").read_text().splitlines()
    assert json.loads(line) == {"place": f"{training}[0]", "in_validation": f"{validation}:4"}
    pack = open_pack_files(tmp_path / "pack")
    assert list(map(pack.place, range(13))) == [
        *(f"{validation}:{number}" for number in range(1, 5)),
        *(f"{training}[{index}]" for index in range(9)),
    ]


def test_the_validation_split_is_part_of_the_fingerprint(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(random_conversations(1, seed=ord(name))[0]) + "\n")

    def fingerprint(source: str, **data: object) -> str:
        return PackJob.read(write_job(tmp_path / f"{source}.jsonl", **data)).fingerprint

    one = fingerprint("a", validation=str(tmp_path / "b.jsonl"))
    assert one != fingerprint("a", validation_share=0)
    assert one != fingerprint("a", validation=str(tmp_path / "c.jsonl"))
    assert one != fingerprint("b", validation=str(tmp_path / "a.jsonl"))
    (tmp_path / "d.jsonl").write_bytes((tmp_path / "b.jsonl").read_bytes())
    assert one == fingerprint("a", validation=str(tmp_path / "d.jsonl"))
