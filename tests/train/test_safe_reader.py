"""Reading a checkpoint runs nothing that is in it."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from torch.distributed.checkpoint.state_dict_saver import save

from gemfit.errors import UserError
from gemfit.export.weights import weights_of_checkpoint
from gemfit.train.checkpoint import safe_reader
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, read, write
from gemfit.train.checkpoint.safe_reader import SafeReader


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self._command = f"touch {victim}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    types = (torch.float32, torch.bfloat16, torch.uint8, torch.int64)
    tensors = {f"{WEIGHT_PREFIX}{kind}": torch.arange(6).reshape(2, 3).to(kind) for kind in types}
    write(dict(tensors), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_plain_checkpoints_are_read_as_torch_reads_them(checkpoint: Path) -> None:
    mine = SafeReader(checkpoint).read_metadata()
    theirs = FileSystemReader(checkpoint).read_metadata()
    assert mine.state_dict_metadata == theirs.state_dict_metadata
    assert mine.storage_data == theirs.storage_data
    name = f"{WEIGHT_PREFIX}{torch.float32}"
    state: dict[str, Any] = {name: torch.zeros(2, 3)}
    read(state, checkpoint)
    assert state[name].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("place", ["instead", "planner_data", "entry"])
def test_metadata_with_code_in_it_is_refused_and_runs_nothing(
    checkpoint: Path, tmp_path: Path, place: str
) -> None:
    victim = tmp_path / "victim"
    metadata: Any = FileSystemReader(checkpoint).read_metadata()
    if place == "planner_data":
        metadata.planner_data = Command(victim)
    elif place == "entry":
        metadata.state_dict_metadata["x"] = Command(victim)
    else:
        metadata = Command(victim)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    for reading in (lambda: weights_of_checkpoint(checkpoint), lambda: read({}, checkpoint)):
        with pytest.raises(UserError, match=r"\.metadata: names .*system.* nothing was loaded or run"):
            reading()
    assert not victim.exists()


class ByAttribute:
    """Pickled as ``getattr(owner, name)``, as Python 3.11.2 pickles members of enumerations."""

    def __init__(self, owner: object, name: str) -> None:
        self._reduced = getattr, (owner, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def test_members_of_the_memory_format_may_be_pickled_by_attribute(checkpoint: Path) -> None:
    metadata: Any = FileSystemReader(checkpoint).read_metadata()
    metadata.planner_data = ByAttribute(_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    found = SafeReader(checkpoint).read_metadata().planner_data
    assert found is _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
    for owner, name in ((metadata.__class__, "__init__"), (_MEM_FORMAT_ENCODING, "__doc__")):
        metadata.planner_data = ByAttribute(owner, name)
        (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
        with pytest.raises(UserError, match="asks for an attribute"):
            SafeReader(checkpoint).read_metadata()


def test_paths_that_python_3_13_pickled_are_read(checkpoint: Path) -> None:
    expected = FileSystemReader(checkpoint).read_metadata()
    content = pickle.dumps(expected, protocol=3)
    assert b"cpathlib\n" in content
    (checkpoint / ".metadata").write_bytes(content.replace(b"cpathlib\n", b"cpathlib._local\n"))
    found = SafeReader(checkpoint).read_metadata()
    assert found.storage_meta is not None
    assert expected.storage_meta is not None
    assert found.storage_meta.checkpoint_id == expected.storage_meta.checkpoint_id == checkpoint


def test_a_load_parses_the_metadata_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []
    parse = safe_reader._parse

    def record(path: Path, bytes_of: Mapping[str, int] | None) -> Metadata:
        parsed.append(path)
        return parse(path, bytes_of)

    monkeypatch.setattr(safe_reader, "_parse", record)
    read({f"{WEIGHT_PREFIX}{torch.float32}": torch.zeros(2, 3)}, checkpoint)
    assert parsed == [checkpoint / ".metadata"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_values_that_are_not_tensors_are_refused(tmp_path: Path) -> None:
    save({"a": torch.zeros(2), "b": io.BytesIO(b"x")}, checkpoint_id=tmp_path / "other", no_dist=True)
    with pytest.raises(UserError, match="'b' is not a tensor"):
        weights_of_checkpoint(tmp_path / "other")


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/b", ""])
def test_files_outside_of_the_checkpoint_are_refused(checkpoint: Path, file: str) -> None:
    metadata = FileSystemReader(checkpoint).read_metadata()
    for info in metadata.storage_data.values():
        info.relative_path = file
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="outside of its folder"):
        weights_of_checkpoint(checkpoint)


def test_weights_that_are_fetched_in_parts_parse_the_metadata_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []

    def parse(path: Path, bytes_of: Any, real: Any = safe_reader._parse) -> Any:
        parsed.append(path)
        return real(path, bytes_of)

    monkeypatch.setattr(safe_reader, "_parse", parse)
    weights = weights_of_checkpoint(checkpoint)
    found = {name: weights.fetch([name])[name] for name in weights.shapes}
    assert len(found) == 4
    assert torch.equal(found["torch.float32"], torch.arange(6.0).reshape(2, 3))
    assert len(parsed) == 1


def test_known_sizes_are_not_asked_of_the_file_system(checkpoint: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    assert SafeReader(checkpoint, sizes).read_metadata().state_dict_metadata
    with pytest.raises(UserError, match="that it does not have"):
        SafeReader(checkpoint, dict.fromkeys(sizes, 1)).read_metadata()
