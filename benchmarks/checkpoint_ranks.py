"""A checkpoint saved and resumed by 64 processes: who reads which file, and how long ranks wait.

    python benchmarks/checkpoint_ranks.py [--gb 32] [--ranks 64] [--folder DIR] [--json]

Forked processes on gloo hold equal shards of tensors of 512 MiB, as the larger ones of Gemma 3 27B are under
FSDP2, and go through gemfit's own save and resume. All values are zero: what is written of them are
holes in sparse files, and the tensors of a process share their memory, so that neither disk nor memory is
filled. Digests are made of all bytes, and all bytes are read.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
import torch
import torch.distributed as dist

from gemfit.train.checkpoint import digest_writer, engine_state, verified_load
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.verifying_reader import VerifyingReader
from gemfit.train.collective import on_every_rank

COLUMNS = 4096
TENSOR_BYTES = 2**29
HOLE_BYTES = 2**16
"""Zeros from which on a hole is left in the file."""


class Observer:
    """What this rank reads, and how long it waits in collectives."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.most_bytes = self.meetings = 0
        self.longest_wait = 0.0

    def watch(self) -> None:
        """Record what the code that loads does, from now on."""
        own_reader, own_read = VerifyingReader.__init__, verified_load._Exchange._read
        own_gather = dist.all_gather_object

        def reader(reads: Any, folder: Path, files: list[Any]) -> None:
            self.files += [file.path for file in files]
            own_reader(reads, folder, files)

        def read(exchange: Any, number: int, found: dict[Any, torch.Tensor]) -> None:
            own_read(exchange, number, found)
            self.most_bytes = max(self.most_bytes, sum(piece.length for piece in found))

        def gather(*arguments: Any, **options: Any) -> None:
            began = time.perf_counter()
            own_gather(*arguments, **options)
            self.meetings += 1
            self.longest_wait = max(self.longest_wait, time.perf_counter() - began)

        VerifyingReader.__init__ = reader  # type: ignore[method-assign]
        verified_load._Exchange._read = read  # type: ignore[method-assign]
        dist.all_gather_object = gather


def leave_holes() -> None:
    """Let the writer of checkpoints seek where it would write many zeros."""
    own = digest_writer._DigestingStream.write

    def write(stream: Any, content: Any) -> int:
        size = memoryview(content).nbytes
        if size < HOLE_BYTES or np.frombuffer(content, np.uint8).any():
            return own(stream, content)
        stream.digest.update(content)
        stream._bytes += size
        stream._stream.seek(size, os.SEEK_CUR)
        return size

    digest_writer._DigestingStream.write = write  # type: ignore[method-assign]


def shards(rank: int, ranks: int, count: int, fill: float) -> dict[str, FlatShard]:
    """This rank's equal share of each tensor; all of them are the same memory."""
    rows = TENSOR_BYTES // 4 // COLUMNS // ranks * ranks
    mine = rows // ranks * COLUMNS
    memory, shape = torch.full((mine,), fill), torch.Size((rows, COLUMNS))
    return {f"model.{n}": FlatShard(memory, rank * mine, shape) for n in range(count)}


def measure(rank: int, ranks: int, size: int, folder: Path) -> None:
    """One process: save, load, and what was seen of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    leave_holes()
    count, observer = max(size // TENSOR_BYTES, 1), Observer()
    (checkpoint := folder / "checkpoint").mkdir(exist_ok=True)
    began = time.perf_counter()
    own = engine_state.write(shards(rank, ranks, count, 0.0), checkpoint)
    files = [file for of_rank in on_every_rank(lambda: own) for file in of_rank]
    saved, empty = time.perf_counter(), shards(rank, ranks, count, 1.0)
    observer.watch()
    assert verified_load.load(empty, checkpoint, files) is None
    assert not empty["model.0"].flat.any()
    loaded = time.perf_counter()
    seen = on_every_rank(lambda: vars(observer))
    if rank == 0:
        readers = Counter(file for one in seen for file in one["files"])
        data = {file.path: file.bytes for file in files if file.path.endswith(verified_load.DATA_SUFFIX)}
        shares = [sum(data[file] for file in one["files"]) for one in seen]
        result = {
            "bytes": sum(data.values()),
            "files": len(data),
            "read_once": sum(readers[file] == 1 for file in data),
            "largest_share": max(shares) * ranks / sum(shares),
            "most_bytes_between_meetings": max(one["most_bytes"] for one in seen),
            "meetings": seen[0]["meetings"],
            "longest_wait": max(one["longest_wait"] for one in seen),
            "save_seconds": saved - began,
            "load_seconds": loaded - saved,
        }
        (folder / "found.json").write_text(json.dumps(result))
    dist.barrier()


def fork(rank: int, ranks: int, size: int, folder: Path) -> int:
    if pid := os.fork():
        return pid
    try:
        measure(rank, ranks, size, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=32, help="size of the checkpoint, in 10⁹ bytes")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="on a file system with sparse files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    gc.freeze()  # a collection in a process would copy every page of what was imported
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        size, ranks = round(arguments.gb * 1e9), arguments.ranks
        pids = [fork(rank, ranks, size, Path(folder)) for rank in range(ranks)]
        codes = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(codes):
            return 1
        found = json.loads((Path(folder) / "found.json").read_text())
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value:,.4g}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
