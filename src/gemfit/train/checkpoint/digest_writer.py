"""Writer of distributed checkpoints that digests files while it writes them.

The digests are those of the bytes that were handed to the file system, so nothing is read back: 1 byte
written and none read per byte of a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import xxhash
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.futures import Future

from gemfit.schemas.manifest import FileDigest
from gemfit.train.collective import in_rounds
from gemfit.train.thread_device import device_setter

FILE_BYTES = 2**30
"""About the size of one file: ranks verify whole files, so a rank's share is several of them."""
MAX_FILES = 8
"""Of one rank; each is written by a thread."""


class DigestingWriter(FileSystemWriter):
    """``FileSystemWriter`` with the digests of its files; ranks meet while they write.

    ``bytes_to_write`` of this rank decide on the number of its files; ``heartbeat`` is called while they are
    written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bytes_to_write: int,
        group: Any = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        files = min(max(bytes_to_write // FILE_BYTES, 1), MAX_FILES)
        # Copying ahead would synchronize a stream of the thread's GPU, where nothing is to be copied.
        super().__init__(folder, thread_count=files, per_thread_copy_ahead=0)
        self.fs = self._files = _DigestingFileSystem()
        self._group, self._heartbeat = group, heartbeat

    @property
    def digests(self) -> list[FileDigest]:
        """Of every file that this process has written."""
        return [
            FileDigest(path=path.name, bytes=stream.tell(), xxh3=stream.digest.hexdigest())
            for path, stream in sorted(self._files.written.items())
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[Any]:
        """Write this rank's files; collective, so that no rank waits for more than a round at a time."""
        written: Future[Any] = Future()
        in_rounds(self._write(plan, planner, written), self._heartbeat, self._group)
        return written

    def _write(
        self, plan: SavePlan, planner: SavePlanner, written: Future[Any]
    ) -> Generator[None, None, None]:
        """Write in a thread; yields about once per second until that ends."""
        running = _writing_thread().submit(super().write_data, plan, planner)
        while not wait([running], timeout=1.0).done:
            yield
        results = running.result().value()
        if self._files.failed is not None:  # in one of torch's own threads, which would drop it
            raise self._files.failed
        written.set_result(results)


@cache
def _writing_thread() -> ThreadPoolExecutor:
    """The thread of this process for all its saves.

    Python waits forever for a new thread that finds no memory to begin with; one that exists raises.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="files", initializer=device_setter())


class _DigestingFileSystem(FileSystem):
    """Local files; what is written is digested."""

    def __init__(self) -> None:
        self.written: dict[Path, _DigestingStream] = {}
        self.failed: Exception | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[Any, None, None]:
        try:
            with super().create_stream(path, mode) as stream:
                self.written[Path(path)] = digesting = _DigestingStream(stream)
                yield digesting
        except Exception as error:
            self.failed = error
            raise

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path)] = self.written.pop(Path(path))


class _DigestingStream:
    """A file that is written from its beginning to its end."""

    def __init__(self, stream: Any) -> None:
        self.digest, self._stream, self._bytes = xxhash.xxh3_128(), stream, 0

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self._bytes += memoryview(content).nbytes
        written: int = self._stream.write(content)
        return written

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        number: int = self._stream.fileno()
        return number

    def close(self) -> None:
        self._stream.close()
