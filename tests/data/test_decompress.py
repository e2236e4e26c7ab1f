"""Compressed input: every format whole, in several members, and cut at many places."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from gemfit.data.jsonl.decompress import decompressed
from gemfit.data.jsonl.file_blocks import file_blocks
from gemfit.errors import UserError
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.schemas.source_file import check_readable, digest_file

Compress = Callable[[bytes], bytes]
FORMATS: dict[str, Compress] = {
    "gz": lambda text: gzip.compress(text, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}
TEXT = b"".join(b'{"line": %d, "text": "%d"}\n' % (number, number**7) for number in range(3000))
every_format = pytest.mark.parametrize("suffix", FORMATS)


def read(path: Path) -> bytes:
    """Content of a file as a build reads it."""
    return b"".join(block.text or b"" for block in file_blocks(digest_file(path), 0, 0))


def read_until_error(path: Path) -> tuple[bytes, str]:
    """Content before the error, and the error."""
    found = b""
    try:
        for block in file_blocks(digest_file(path), 0, 0):
            found += block.text or b""
    except UserError as error:
        return found, str(error)
    pytest.fail(f"{path.name}, {path.stat().st_size} bytes: no error after {len(found)} bytes")


def streamed_zst(text: bytes, *, finish: bool, window: int | None = None) -> bytes:
    """A frame that does not state its size, with four flushed blocks; only ended on ``finish``."""
    compressor = (
        zstandard.ZstdCompressor()
        if window is None
        else zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True)
        )
    ).compressobj()
    quarter = len(text) // 4 + 1
    parts = []
    for start in range(0, len(text), quarter):
        parts.append(compressor.compress(text[start : start + quarter]))
        parts.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join(parts) + (compressor.flush() if finish else b"")


@every_format
def test_members_are_joined_and_empty_ones_add_nothing(suffix: str, tmp_path: Path) -> None:
    path, compress = tmp_path / f"a.jsonl.{suffix}", FORMATS[suffix]
    half = len(TEXT) // 2
    path.write_bytes(compress(b"") + compress(TEXT[:half]) + compress(b"") + compress(TEXT[half:]))
    assert read(path) == TEXT
    path.write_bytes(compress(b""))
    assert read(path) == b""


@every_format
def test_a_stream_that_breaks_off_is_an_error_after_its_whole_lines(suffix: str, tmp_path: Path) -> None:
    path, whole = tmp_path / f"a.jsonl.{suffix}", FORMATS[suffix](TEXT)
    offsets = {*range(12, 80), *range(80, len(whole), 997), *range(len(whole) - 80, len(whole))}
    for offset in sorted(offsets):
        path.write_bytes(whole[:offset])
        found, error = read_until_error(path)
        assert TEXT.startswith(found), offset
        assert found.endswith(b"\n") or not found, offset
        assert f"{path}:{found.count(10) + 1}: cannot be read further" in error


@every_format
def test_a_second_member_that_breaks_off_is_an_error(suffix: str, tmp_path: Path) -> None:
    path, one = tmp_path / f"a.jsonl.{suffix}", FORMATS[suffix](TEXT[:2000])
    for offset in range(1, len(one)):
        path.write_bytes(one + one[:offset])
        assert read_until_error(path)[0].startswith(TEXT[: TEXT.rfind(b"\n", 0, 2000) + 1]), offset


@every_format
def test_what_follows_a_member_and_is_none_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(FORMATS[suffix](TEXT) + b'{"more": 1}\n' * 3)
    assert "cannot be read further" in read_until_error(path)[1]


@pytest.mark.parametrize("suffix", ["gz", "xz"])
@pytest.mark.parametrize("zeros", [4, 512, 40_000])
def test_zero_padding_after_a_member_is_no_data(suffix: str, zeros: int, tmp_path: Path) -> None:
    path, member = tmp_path / f"a.jsonl.{suffix}", FORMATS[suffix](TEXT)
    path.write_bytes(member + bytes(zeros) + member + bytes(zeros))
    assert read(path) == 2 * TEXT


def test_a_zst_writer_that_was_killed_between_blocks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(streamed_zst(TEXT, finish=False))
    found, error = read_until_error(path)
    assert found == TEXT
    assert "is the file complete?" in error
    path.write_bytes(streamed_zst(TEXT, finish=True))
    assert read(path) == TEXT


def test_a_zst_with_the_longest_window_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(streamed_zst(TEXT, finish=True, window=31))
    assert read(path) == TEXT


def test_skippable_zst_frames_are_skipped(tmp_path: Path) -> None:
    path, skippable = tmp_path / "a.jsonl.zst", b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    path.write_bytes(skippable + zstandard.compress(TEXT) + skippable)
    assert read(path) == TEXT
    path.write_bytes(zstandard.compress(TEXT) + skippable[:-1])
    assert "is the file complete?" in read_until_error(path)[1]


@every_format
def test_small_reads_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(FORMATS[suffix](TEXT))
    compression = digest_file(path).compression
    assert compression is not None
    with decompressed(path, compression) as (_, stream):
        assert b"".join(iter(lambda: stream.read(7), b"")) == TEXT


@pytest.mark.parametrize(
    ("name", "compress", "says"),
    [
        ("a.jsonl", "gz", "is gzip inside"),
        ("a.jsonl", "zst", "is zstd inside"),
        ("a.jsonl.gz", "bz2", "is bzip2 inside, though its name says gzip"),
        ("a.jsonl.gz", None, "is not compressed, though its name says gzip"),
        ("a.jsonl.XZ", "xz", None),
        ("a.jsonl", None, None),
    ],
)
def test_content_counts_where_a_name_promises_something_else(
    name: str, compress: str | None, says: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[compress](TEXT) if compress else TEXT)
    recipe = Recipe(model=ModelRecipe(scratch=ScratchModel()), data=DataRecipe(source=str(path)))
    job = make_pack_job(recipe)
    assert (says in job.notes[0]) if says else not job.notes
    if compress:
        assert read(path) == TEXT
    else:
        assert job.files[0].compression is None


def test_an_archive_has_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(UserError, match="is a zip archive; unpack it"):
        check_readable(digest_file(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS; run git lfs pull",
        ),
        ("\n<!DOCTYPE html><html>", "a web page; download the file"),
        ("<HTML lang=en>", "a web page; download the file"),
    ],
)
def test_what_stands_in_place_of_a_file_is_named(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text(content)
    with pytest.raises(UserError, match=reason):
        check_readable(digest_file(path))
