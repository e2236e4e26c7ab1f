"""Files of weights whose header is not true: each is refused with its path, before a weight is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.errors import UserError
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.train.model.build import open_base
from train.tiny_gemma import SIZES

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAME = "model.safetensors"
Header = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def split(content: bytes) -> tuple[Header, bytes]:
    """Header and data of a file in safetensors."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Header | bytes, data: bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def ends(header: Header) -> tuple[str, str]:
    """The names of the first and the last tensor in the file."""
    names = sorted(
        (name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"]
    )
    return names[0], names[-1]


def changed(**entry: Any) -> Callable[[Header, bytes], bytes]:
    """Another entry of the last tensor."""

    def lie(header: Header, data: bytes) -> bytes:
        header[ends(header)[1]] |= entry
        return joined(header, data)

    return lie


def moved(begin: int, end: int) -> Callable[[Header, bytes], bytes]:
    """Offsets of the last tensor, moved by so many bytes."""

    def lie(header: Header, data: bytes) -> bytes:
        first, last = header[ends(header)[1]]["data_offsets"]
        header[ends(header)[1]]["data_offsets"] = [first + begin, last + end]
        return joined(header, data)

    return lie


def twice(header: Header, data: bytes) -> bytes:
    first, last = ends(header)
    more = json.dumps({first: header[last]})
    return joined((json.dumps(header)[:-1] + "," + more[1:]).encode(), data)


LIES: dict[str, Callable[[Header, bytes], bytes]] = {
    "empty": lambda header, data: b"",
    "seven bytes": lambda header, data: joined(header, data)[:7],
    "half a header": lambda header, data: joined(header, data)[:100],
    "cut data": lambda header, data: joined(header, data[:-1]),
    "more data": lambda header, data: joined(header, data + b"x"),
    "no header": lambda header, data: joined(header, data, 0),
    "length 2**63": lambda header, data: joined(header, data, 2**63),
    "length 2**64 - 1": lambda header, data: joined(header, data, 2**64 - 1),
    "a page of the web": lambda header, data: b"<!DOCTYPE html>" + 2000 * b" ",
    "zeros": lambda header, data: bytes(10_000),
    "not UTF-8": lambda header, data: joined(json.dumps(header).encode()[:-1] + b',"\xff":1}', data),
    "UTF-16": lambda header, data: joined(json.dumps(header).encode("utf-16"), data),
    "a list": lambda header, data: joined(b"[1]", data),
    "nested without an end": lambda header, data: joined(b"[" * 100_000, data),
    "beyond the file": moved(0, 4096),
    "2**63": moved(0, 2**63),
    "overlapping": moved(-64, -64),
    "negative": changed(data_offsets=[-4, 4]),
    "backwards": changed(data_offsets=[8, 4]),
    "three offsets": changed(data_offsets=[0, 1, 2]),
    "a shape of 2**124 elements": changed(shape=[2**62, 2**62]),
    "a negative shape": changed(shape=[-1]),
    "a shape with fewer bytes": changed(shape=[1]),
    "another type": changed(dtype="F64"),
    "a type that there is not": changed(dtype="Q4"),
    "a type of integers": changed(dtype="I32"),
    "one name for two": twice,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_header_that_is_not_true_is_refused(lie: Callable[[Header, bytes], bytes], folder: Path) -> None:
    (folder / NAME).write_bytes(lie(*split((folder / NAME).read_bytes())))
    with pytest.raises(UserError, match=str(folder / NAME)):
        open_base(ModelRecipe(id=str(folder), attention="eager"))


def make_sparse(path: Path) -> None:
    """A terabyte that takes no place on disk."""
    path.touch()
    os.truncate(path, 2**40)


THINGS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "terabyte of nothing": make_sparse,
}


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
@pytest.mark.parametrize("indexed", [False, True])
def test_what_is_no_file_of_weights_is_refused(
    make: Callable[[Path], object], indexed: bool, folder: Path
) -> None:
    if indexed:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": NAME}}
        (folder / f"{NAME}.index.json").write_text(json.dumps(index))
    (folder / NAME).unlink()
    make(folder / NAME)
    with pytest.raises(UserError, match=str(folder)):
        open_base(ModelRecipe(id=str(folder), attention="eager"))
