"""Input files and streams of a pack job: names, blocks, and a check that files are unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from gemfit.data.jsonl.blocks import Block, file_blocks, is_compressed, read_block
from gemfit.data.jsonl.hub_stream import hub_blocks, hub_lines
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
        yield PackInput(path=source.hub, bytes=0, xxh3="", source=number)
    for file in job.files:
        if file.source == number:
            yield PackInput(path=file.path, bytes=file.bytes, xxh3=file.xxh3, source=number)


def all_blocks(job: PackJob) -> Iterator[Block]:
    """Every block of every input, numbered in order. What cannot be read is a ``UserError``."""
    number = 0
    for index, one in enumerate(inputs_of(job)):
        source = job.sources[one.source]
        blocks = (
            _of_file(Path(one.path), one.bytes, index, number)
            if source.hub is None
            else hub_blocks(source, index, number)
        )
        for block in blocks:
            yield block
            number = block.number + 1


def _of_file(path: Path, size: int, input: int, number: int) -> Iterator[Block]:
    blocks = file_blocks(path, size, input, number)
    return prefetch(blocks) if is_compressed(path) else blocks


def block_text(block: Block, path: str) -> bytes:
    """The lines of a block."""
    return read_block(Path(path), block.start, block.stop) if block.text is None else block.text


def all_lines(job: PackJob) -> Iterator[tuple[str, bytes]]:
    """Every line with its `path:line`, read lazily."""
    for one in inputs_of(job):
        source, number = job.sources[one.source], 0
        if source.hub is not None:
            lines = hub_lines(source)
        else:
            blocks = file_blocks(Path(one.path), one.bytes, 0, 0)
            lines = chain.from_iterable(block_text(block, one.path).split(b"\n") for block in blocks)
        for number, line in enumerate(lines, 1):
            yield f"{one.path}:{number}", line


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
