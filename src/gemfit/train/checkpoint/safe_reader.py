"""Reader of torch's distributed checkpoints that executes nothing of what it reads.

torch keeps the metadata of a checkpoint as a pickle, and values that are not tensors as further ones;
loading a pickle may run any code. Here only the classes of the metadata format are allowed, and values
other than tensors are refused: gemfit saves none. Tensors themselves torch reads with ``weights_only``.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.serialization import _get_layout

from gemfit.errors import UserError


def _member(owner: Any, name: str) -> Any:
    """``getattr`` for members of the one enumeration, which Python 3.11.0 to 3.11.3 pickle by it."""
    if owner is not metadata._MEM_FORMAT_ENCODING or name not in owner.__members__:
        raise UserError("the metadata of a checkpoint asks for an attribute; nothing was loaded or run")
    return owner[name]


_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (kind.__module__, kind.__name__): kind
        for kind in (
            metadata.ChunkStorageMetadata,
            metadata.BytesStorageMetadata,  # refused below, by its name
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorProperties,
            metadata.TensorStorageMetadata,
            metadata._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo,
        )
    },
    ("builtins", "getattr"): _member,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib._local", "PosixPath"): PosixPath,  # of Python 3.13
}
"""What the metadata of a checkpoint is made of, by module and name."""


class SafeReader(FileSystemReader):
    """``FileSystemReader`` for checkpoints from anywhere; other than plain tensors is a ``UserError``."""

    def __init__(self, path: Path, bytes_of: Mapping[str, int] | None = None) -> None:
        """``bytes_of`` has the sizes of the files of the folder, by name, where they are known."""
        super().__init__(path)
        self._bytes_of = bytes_of
        self._parsed: dict[Path, Metadata] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checked metadata; its file is read once."""
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        if path not in self._parsed:
            self._parsed[path] = _parse(path, self._bytes_of)
        found = self._parsed[path]
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _MetadataUnpickler(pickle.Unpickler):
    def __init__(self, stream: Any, path: Path) -> None:
        super().__init__(stream)
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name == "torch" and isinstance(dtype := getattr(torch, global_name, None), torch.dtype):
            return dtype
        if (module_name, global_name) not in _ALLOWED:
            raise UserError(
                f"{self._path}: names {module_name}.{global_name}, which the metadata of a checkpoint never "
                "does; nothing was loaded or run: take another checkpoint, from a source that you trust"
            )
        return _ALLOWED[module_name, global_name]


def _parse(path: Path, bytes_of: Mapping[str, int] | None) -> Metadata:
    try:
        with path.open("rb") as stream:
            found = _MetadataUnpickler(stream, path).load()
        if not isinstance(found, Metadata):
            raise UserError(f"{path}: is not the metadata of a checkpoint")
        if bytes_of is None:
            files = filter(os.DirEntry.is_file, os.scandir(path.parent))
            bytes_of = {file.name: file.stat().st_size for file in files}
        _check_files(path, found, bytes_of)
        _check_sizes(path, found, sum(bytes_of.values()))
    except (UserError, OSError):
        raise
    except Exception as error:  # of a damaged pickle, and of values that are no numbers
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: is damaged ({why}); take another checkpoint") from None
    return found


def _check_files(path: Path, found: Metadata, bytes_of: Mapping[str, int]) -> None:
    """``UserError`` where stored bytes lie elsewhere than in a file of the folder."""
    for info in (found.storage_data or {}).values():
        file = info.relative_path if isinstance(info, filesystem._StorageInfo) else ""
        if not file or Path(file).name != file:
            raise UserError(f"{path}: names a file outside of its folder; nothing was loaded")
        # A file that is missing is named where it is opened.
        last = bytes_of.get(file, sys.maxsize)
        if not (info.offset >= 0 <= info.length and info.offset + info.length <= last):
            raise UserError(f"{path}: names bytes of {file} that it does not have; take another checkpoint")


def _check_sizes(path: Path, found: Metadata, stored: int) -> None:
    """``UserError`` for what is no tensor, and for tensors that are larger than what is stored of them."""
    for name, entry in found.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise UserError(f"{path}: {name!r} is not a tensor, so it was not loaded")
        if min(entry.size, default=0) < 0 or math.prod(entry.size) * entry.properties.dtype.itemsize > stored:
            raise UserError(
                f"{path}: says that {name!r} is {list(entry.size)}, more than the {stored:,} bytes of the "
                "checkpoint hold; take another checkpoint"
            )
