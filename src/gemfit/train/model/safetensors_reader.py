"""Read base weights from safetensors, only the slices that a rank needs.

Files are mapped into memory, so a rank reads the pages that it needs and holds a copy of at most
``CHUNK_BYTES`` besides its destination. Every name is matched before the first byte is read: no weight is
silently left random.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from gemfit.core.json_file import files_of_index
from gemfit.errors import UserError
from gemfit.train.checkpoint.dcp_planner import FlatShard, TensorBox
from gemfit.train.model.text_architecture import may_be_ignored, text_name

CHUNK_BYTES = 2**26
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = ("BF16", "F16", "F32", "F64")
SHOWN = 5
"""Names that an error lists before it counts the others."""
SHOWN_CHARACTERS = 200
"""Of a name or reason in a file from others."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in a safetensors file."""

    file: Path
    key: str
    shape: torch.Size
    dtype: str
    """As safetensors writes it, for example ``BF16``."""


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Where each parameter of a model is on disk."""

    entries: Mapping[str, TensorEntry]
    """By the model's own name; a tied weight once, under its first name."""
    left_out: Mapping[str, TensorEntry]
    """Tensors of a multimodal checkpoint that the text model does not have, by their name on disk."""

    def fill(self, name: str, shard: FlatShard) -> None:
        """Fill ``shard`` of parameter ``name``, in the dtype and on the device of the shard."""
        entry = self.entries[name]
        with torch.no_grad(), safe_open(entry.file, framework="pt") as opened:
            if not entry.shape:
                shard.flat.copy_(opened.get_tensor(entry.key).reshape(1)[: shard.flat.numel()])
                return
            on_disk = opened.get_slice(entry.key)
            for box in shard.boxes():
                target = shard.flat.narrow(0, box.start - shard.start, box.numel).view(box.sizes)
                for first, last in _rows(box):
                    target[first:last].copy_(on_disk[_index(box, first, last)])

    def fill_whole(self, name: str, tensor: torch.Tensor) -> None:
        """Copy all of parameter ``name`` into ``tensor``, which is contiguous."""
        self.fill(name, FlatShard(tensor.detach().view(-1), 0, tensor.shape))

    def whole(self, name: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """All of parameter ``name``, in a new tensor."""
        tensor = torch.empty(self.entries[name].shape, dtype=dtype, device=device)
        self.fill_whole(name, tensor)
        return tensor


def find_weights(name: str, revision: str, model: torch.nn.Module) -> BaseWeights:
    """The files of ``name`` (a folder, or a Hugging Face id) matched with the parameters of ``model``.

    Persistent buffers count as parameters. Raises ``UserError`` naming what is missing, unexpected, of
    another shape, or not a plain float; ``OSError`` where there are no files.
    """
    return match(list(_listed(weight_files(name, revision))), model, name)


def weight_files(name: str, revision: str) -> list[Path]:
    """The safetensors files of a model, downloaded unless it is a local folder."""
    index = cached_file(name, INDEX, revision=revision, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return [Path(str(cached_file(name, WHOLE, revision=revision)))]
    files = files_of_index(Path(index))
    return [Path(str(cached_file(name, file, revision=revision))) for file in files]


def match(listed: Iterable[TensorEntry], model: torch.nn.Module, place: str) -> BaseWeights:
    """Match each of ``model``'s tensors with an entry; errors as in ``find_weights``."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}
    first_names = _first_names(model)
    entries: dict[str, TensorEntry] = {}
    left_out: dict[str, TensorEntry] = {}
    unknown: list[str] = []
    for entry in listed:
        name = text_name(entry.key)
        if name is None:
            left_out[entry.key] = entry
        elif name not in wanted:
            unknown += [] if may_be_ignored(name, model) else [entry.key]
        else:
            _check_shape_and_type(entry, wanted[name])
            other = entries.setdefault(first_names.get(name, name), entry)
            _check_equal(other, entry, place)
    missing = [name for name in wanted if first_names.get(name, name) not in entries]
    if missing or unknown:
        raise UserError(
            f"model.id: {place}: its files do not hold the weights of {type(model).__name__}: "
            f"missing {_some(missing)}; unknown {_some(unknown)}; nothing is left random or unread, "
            "so use a checkpoint of exactly this architecture, in safetensors"
        )
    return BaseWeights(entries, left_out)


def _listed(files: Iterable[Path]) -> Iterator[TensorEntry]:
    for file in files:
        if not file.is_file():  # opening a pipe would wait for ever
            raise UserError(f"model.id: {file}: is no regular file; put the weights themselves there")
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118  (not a mapping)
                    found = opened.get_slice(key)
                    yield TensorEntry(file, key, torch.Size(found.get_shape()), found.get_dtype())
        except (SafetensorError, OSError, ValueError, TypeError, MemoryError) as error:
            why = str(error)[:SHOWN_CHARACTERS] or type(error).__name__
            raise UserError(
                f"model.id: {file}: is damaged or not in safetensors ({why}); `gemfit fetch` compares "
                "files of the Hub with their digests, and downloads damaged ones again"
            ) from None


def _first_names(model: torch.nn.Module) -> dict[str, str]:
    """For each alias of a tied weight, its first name."""
    seen: dict[int, str] = {}
    aliases = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            aliases[name] = first
    return aliases


def _check_shape_and_type(entry: TensorEntry, shape: torch.Size) -> None:
    if entry.shape != shape:
        raise UserError(
            f"model.id: {entry.file}: {entry.key} is {tuple(entry.shape)} on disk, {tuple(shape)} by "
            f"config.json; use the files that belong together"
        )
    if entry.dtype not in FLOATS:
        raise UserError(
            f"model.id: {entry.file}: {entry.key} is stored as {entry.dtype}; quantized weights cannot be "
            "trained: use the checkpoint in bfloat16 or float32"
        )


def _check_equal(one: TensorEntry, other: TensorEntry, place: str) -> None:
    """Two entries for one weight are allowed where they are equal."""
    if one is other:
        return
    with safe_open(one.file, framework="pt") as here, safe_open(other.file, framework="pt") as there:
        if not torch.equal(here.get_tensor(one.key), there.get_tensor(other.key)):
            raise UserError(
                f"model.id: {place}: {one.key} and {other.key} differ, but by config.json they are one "
                "weight; set tie_word_embeddings there as the model was trained"
            )


def _rows(box: TensorBox) -> Iterator[tuple[int, int]]:
    """Ranges along the first dimension of ``box`` of about ``CHUNK_BYTES`` in float32 each."""
    step = max(1, CHUNK_BYTES // 4 // math.prod(box.sizes[1:]))
    for first in range(0, box.sizes[0], step):
        yield first, min(first + step, box.sizes[0])


def _index(box: TensorBox, first: int, last: int) -> tuple[slice, ...]:
    """Rows ``first`` to ``last`` of ``box``, in the whole tensor."""
    rows = slice(box.offsets[0] + first, box.offsets[0] + last)
    inner = zip(box.offsets[1:], box.sizes[1:], strict=True)
    return (rows, *(slice(start, start + size) for start, size in inner))


def _some(names: list[Any]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(name[:SHOWN_CHARACTERS] for name in sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
