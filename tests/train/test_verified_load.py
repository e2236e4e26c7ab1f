"""One pass over the files of a checkpoint loads and verifies it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException
from torch.multiprocessing.spawn import spawn

from gemfit.checkpoint.integrity import digest_files
from gemfit.schemas.manifest import FileDigest
from gemfit.train.checkpoint import engine_state
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.digest_writer import _DigestingStream
from gemfit.train.checkpoint.storage_layout import UNEVEN, StoredPiece, assign, rounds
from gemfit.train.checkpoint.verified_load import ROUND_BYTES, load
from train.loading_rank import load_in_another_dtype

SHAPE = torch.Size((7, 5))
SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 100), max_size=12)


def shard(start: int, stop: int) -> FlatShard:
    return FlatShard(torch.zeros(stop - start), start, SHAPE)


@pytest.fixture
def values() -> torch.Tensor:
    return torch.arange(35, dtype=torch.float32)


@pytest.fixture
def saved(tmp_path: Path, values: torch.Tensor) -> tuple[Path, list[FileDigest]]:
    state: engine_state.State = {
        "weights": FlatShard(values, 0, SHAPE),
        "moments": FlatShard(values * 2, 0, SHAPE),
        "step": torch.tensor(3.0),
    }
    return tmp_path, engine_state.write(state, tmp_path)


def test_a_shard_of_another_layout_is_filled(
    saved: tuple[Path, list[FileDigest]], values: torch.Tensor
) -> None:
    wanted = {"weights": shard(3, 29), "step": FlatShard(torch.zeros(1), 0, torch.Size(()))}
    assert load(wanted, *saved) is None
    assert torch.equal(wanted["weights"].flat, values[3:29])
    assert wanted["step"].flat.tolist() == [3.0]


def test_a_piece_that_the_kernel_returns_in_parts_is_read_whole(
    saved: tuple[Path, list[FileDigest]], values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InParts(io.FileIO):
        """Returns 64 bytes at a time, as Linux does with 2 GiB."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(64 if size is None or size < 0 else min(size, 64))

        def readinto(self, buffer: Any, /) -> int:
            return super().readinto(memoryview(buffer)[:64])

    def in_parts(path: Path, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        if mode != "rb":
            return open(path, mode, buffering, **options)  # noqa: PTH123  (`Path.open` is replaced)
        return InParts(path) if buffering == 0 else io.BufferedReader(InParts(path))

    monkeypatch.setattr(Path, "open", in_parts)
    wanted = {"weights": shard(0, 35)}
    assert load(wanted, *saved) is None
    assert torch.equal(wanted["weights"].flat, values)


def test_the_digests_are_those_of_the_files(saved: tuple[Path, list[FileDigest]]) -> None:
    folder, files = saved
    assert files == digest_files(folder, sorted(folder.iterdir()))
    assert {file.path for file in files} == {".metadata", "__0_0.distcp"}


def test_a_large_share_is_several_files_of_equal_digests(
    tmp_path: Path, values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.train.checkpoint.digest_writer.FILE_BYTES", 5000)
    state: engine_state.State = {f"w{n}": FlatShard(values + n, 0, SHAPE) for n in range(6)}
    files = engine_state.write(state, tmp_path)
    assert len(files) > 3
    wanted = {f"w{n}": shard(0, 35) for n in range(6)}
    assert load(wanted, tmp_path, files) is None
    assert all(torch.equal(wanted[f"w{n}"].flat, values + n) for n in range(6))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # torch's own thread
def test_a_failure_in_one_of_the_threads_that_write_is_raised(
    tmp_path: Path, values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.train.checkpoint.digest_writer.FILE_BYTES", 5000)
    (tmp_path / "__0_1.distcp").mkdir()
    with pytest.raises(CheckpointException, match="Is a directory"):
        engine_state.write({f"w{n}": FlatShard(values, 0, SHAPE) for n in range(6)}, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # torch's own thread
def test_so_is_one_that_the_file_system_has_no_part_in(
    tmp_path: Path, values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stream: Any, content: Any) -> int:
        if threading.current_thread().name.startswith("Thread-"):
            raise MemoryError("planted")
        return write(stream, content)

    write = _DigestingStream.write
    monkeypatch.setattr(_DigestingStream, "write", fail)
    monkeypatch.setattr("gemfit.train.checkpoint.digest_writer.FILE_BYTES", 5000)
    with pytest.raises(CheckpointException, match="planted"):
        engine_state.write({f"w{n}": FlatShard(values, 0, SHAPE) for n in range(6)}, tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def garble_the_first_piece(path: Path) -> None:
    path.write_bytes(b"?" * 100 + path.read_bytes()[100:])


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", [truncate, flip, garble_the_first_piece, Path.unlink])
def test_every_damage_is_named(
    saved: tuple[Path, list[FileDigest]], name: str, damage: Callable[[Path], None]
) -> None:
    folder, files = saved
    damage(folder / name)
    found = load({"weights": shard(0, 35)}, folder, files)
    assert found is not None
    assert found.startswith(f"{name} is missing" if damage is Path.unlink else f"{name} has changed")


def test_a_byte_between_and_after_the_pieces_counts_too(saved: tuple[Path, list[FileDigest]]) -> None:
    folder, files = saved
    with (folder / "__0_0.distcp").open("ab") as stream:
        stream.write(b"x")
    assert load({"weights": shard(0, 35)}, folder, files) == "__0_0.distcp has changed since it was written"


def test_another_shape_or_name_is_not_loaded(saved: tuple[Path, list[FileDigest]]) -> None:
    other = FlatShard(torch.zeros(35), 0, torch.Size((5, 7)))
    for wanted in ({"weights": other}, {"unknown": shard(0, 35)}):
        with pytest.raises(ValueError, match="and the checkpoint holds"):
            load(wanted, *saved)


@given(sizes=SIZES, ranks=st.integers(1, 6))
def test_each_file_is_read_by_one_rank_and_ranks_read_about_as_much(
    sizes: dict[str, int], ranks: int
) -> None:
    readers = assign(sizes, [{} for _ in range(ranks)])
    assert sorted(file for files in readers for file in files) == sorted(sizes)
    loads, largest = [sum(sizes[file] for file in files) for files in readers], max(sizes.values(), default=0)
    assert max(loads) <= 1.1 * max(sum(loads) / ranks, largest) + largest


@given(ranks=st.integers(1, 8), files=st.integers(1, 4), data=st.data())
def test_a_rank_reads_the_files_that_it_has_written(ranks: int, files: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(100, 110))
    sizes = {f"__{rank}_{n}": size + rank for rank in range(ranks) for n in range(files)}
    needed = [{name: 1 for name in sizes if name.startswith(f"__{rank}_")} for rank in range(ranks)]
    readers = assign(sizes, needed)
    assert all(sorted(readers[rank]) == sorted(needed[rank]) for rank in range(ranks))


@given(lengths=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 60))
def test_a_round_is_bounded(lengths: list[int], limit: int) -> None:
    pieces = [StoredPiece("w", (n, n + 1), "f", n, length, torch.float32) for n, length in enumerate(lengths)]
    found = rounds(pieces, limit)
    assert [piece for one in found for piece in one] == pieces
    assert all(len(one) == 1 or sum(piece.length for piece in one) <= limit for one in found)


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_send_each_other_what_is_stored_whatever_dtype_they_hold(tmp_path: Path) -> None:
    spawn(load_in_another_dtype, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]


@pytest.mark.dist
@pytest.mark.slow
def test_a_byte_of_a_checkpoint_is_written_once_and_read_once(measure: Callable[..., Any]) -> None:
    found = measure("benchmarks/checkpoint_bytes.py", "--gb", "0.02", "--ranks", "2", timeout_seconds=300)
    ways, size = found["gemfit"], found["bytes"]
    assert ways["save"]["written"] / size == pytest.approx(1, abs=0.02)
    assert ways["save"]["read"] / size == pytest.approx(0, abs=0.02)
    assert ways["resume"]["read"] / size == pytest.approx(1, abs=0.02)
    assert ways["replicated"]["read"] / size == pytest.approx(1, abs=0.02), "every rank holds all of it"


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_read_each_file_once_and_meet_after_a_bounded_number_of_bytes(
    measure: Callable[..., Any],
) -> None:
    found = measure("benchmarks/checkpoint_ranks.py", "--gb", "1.2", "--ranks", "3", timeout_seconds=300)
    assert found["read_once"] == found["files"] == 3
    assert found["largest_share"] <= UNEVEN
    assert 0 < found["most_bytes_between_meetings"] <= ROUND_BYTES < found["bytes"] / 3
