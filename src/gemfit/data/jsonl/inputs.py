"""Input files and streams of a pack job: names, blocks, and a check that files are unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from gemfit.data.jsonl.blocks import Block, read_block
from gemfit.data.jsonl.file_blocks import file_blocks
from gemfit.data.jsonl.hub_stream import hub_lines
from gemfit.data.jsonl.line_blocks import line_blocks
from gemfit.data.jsonl.prefetch import prefetch
from gemfit.errors import UserError
from gemfit.schemas.manifest import PackInput
from gemfit.schemas.pack_job import JobSource, PackJob
from gemfit.schemas.source_file import SourceFile, digest_file


def inputs_of(job: PackJob) -> tuple[PackInput, ...]:
    """Every file and stream in input order: source after source, files sorted by path in each."""
    return tuple(
        chain.from_iterable(_of_source(job, number, source) for number, source in enumerate(job.sources))
    )


def _of_source(job: PackJob, number: int, source: JobSource) -> Iterator[PackInput]:
    if source.hub is not None:
        yield _hub_input(job, number, source.hub)
        return
    for file in job.files:
        if file.source == number:
            yield PackInput(path=file.path, bytes=file.bytes, xxh3=file.xxh3, source=number)


def _hub_input(job: PackJob, number: int, name: str) -> PackInput:
    """A dataset on the Hub by its commit, or a local folder by the digest of its files' digests."""
    files = [file for file in job.files if file.source == number]
    return PackInput(
        path=name,
        bytes=sum(file.bytes for file in files),
        xxh3=xxh3_128_hexdigest(" ".join(file.xxh3 for file in files).encode()) if files else "",
        source=number,
        commit=job.sources[number].commit,
    )


def all_blocks(job: PackJob) -> Iterator[Block]:
    """Every block of every input, numbered in order. What cannot be read is a ``UserError``."""
    number = 0
    for index, origin in enumerate(_origins(job)):
        blocks = (
            _of_file(origin, index, number)
            if isinstance(origin, SourceFile)
            else line_blocks(hub_lines(origin), index, number)
        )
        for block in blocks:
            yield block
            number = block.number + 1


def _origins(job: PackJob) -> Iterator[SourceFile | JobSource]:
    """What each of ``inputs_of`` is read from, in the same order."""
    for number, source in enumerate(job.sources):
        if source.hub is not None:
            yield source
        else:
            yield from (file for file in job.files if file.source == number)


def _of_file(file: SourceFile, input: int, number: int) -> Iterator[Block]:
    blocks = file_blocks(file, input, number)
    return prefetch(blocks) if file.kind != "jsonl" or file.compression else blocks


def block_text(block: Block, path: str) -> bytes:
    """The lines of a block."""
    return read_block(Path(path), block.start, block.stop) if block.text is None else block.text


def all_lines(job: PackJob, *, with_validation: bool = True) -> Iterator[tuple[str, bytes]]:
    """Every line with its place, read lazily; those of ``data.validation`` first, or not at all."""
    for one, origin in zip(inputs_of(job), _origins(job), strict=True):
        if job.sources[one.source].is_validation and not with_validation:
            continue
        if isinstance(origin, SourceFile):
            yield from _file_lines(origin)
        else:
            for number, line in enumerate(hub_lines(origin), 1):
                yield f"{one.path}:{number}", line


def _file_lines(file: SourceFile) -> Iterator[tuple[str, bytes]]:
    number = 0
    for block in file_blocks(file, 0, 0):
        if text := block_text(block, file.path):
            for line in text.removesuffix(b"\n").split(b"\n"):
                number += 1
                yield block.place(file.path, number), line


def lines_of(path: Path) -> Iterator[bytes]:
    """Every line of one file."""
    return (line for _, line in _file_lines(digest_file(path)))


def check_unchanged(files: tuple[SourceFile, ...]) -> None:
    """Refuse files that changed since the pack's fingerprint was computed.

    Size and time of the last change are compared; the bytes are read only where these differ.
    """
    for file in files:
        path = Path(file.path)
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if (status.st_size, status.st_mtime_ns) == (file.bytes, file.modified_ns):
            continue
        if status.st_size != file.bytes or digest_file(path).xxh3 != file.xxh3:
            raise UserError(f"{path}: has changed since the pack was planned; run the command again")
