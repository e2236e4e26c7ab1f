"""Bytes written and read per byte of checkpoint, at a save and at a resume, next to torch's ``async_save``.

    python benchmarks/checkpoint_bytes.py [--gb 2] [--ranks 4] [--folder DIR] [--json]

Processes on gloo hold equal shards of random float32 tensors, as under FSDP2. Both ways save them to files
and load them into other memory, gemfit with its digests: made at a save, compared at a resume. "replicated"
loads one tensor whole on every rank, as under DDP; what it writes goes to sockets. Counted by the kernel
for each process (``rchar`` and ``wchar`` of /proc/self/io: calls, whether they reach the disk or its
cache).

The tensors of a process overlap in memory, each one number further than the last, so that a checkpoint may be
larger than memory; on disk there is one at a time. Neither way copies them before it writes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import async_save, load
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from gemfit.checkpoint.store import newest_listed
from gemfit.rundir import RunDir
from gemfit.train.checkpoint import verified_load
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.checkpoint.save_load import SaveContext, Snapshot, write
from gemfit.train.collective import on_every_rank

COLUMNS = 4096
TENSOR_BYTES = 2**26
"""About the size of one tensor, over all ranks."""


def counted(action: Callable[[], object]) -> dict[str, float]:
    """Bytes that all processes read and wrote meanwhile, and the seconds of the slowest."""
    dist.barrier()
    before, began = _io(), time.perf_counter()
    action()
    after, seconds = _io(), time.perf_counter() - began
    each = on_every_rank(lambda: {**{key: after[key] - before[key] for key in after}, "seconds": seconds})
    sums = {key: sum(one[key] for one in each) for key in after}
    return {"read": sums["rchar"], "written": sums["wchar"], "seconds": max(one["seconds"] for one in each)}


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {
        key: int(value) for key, value in (line.split(": ") for line in lines) if key in ("rchar", "wchar")
    }


def measure(rank: int, ranks: int, size: int, folder: Path, out: Path) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    rows = TENSOR_BYTES // 4 // COLUMNS // ranks * ranks
    shape, count = torch.Size((rows, COLUMNS)), max(size // (rows * COLUMNS * 4), 1)
    mine = rows // ranks * COLUMNS
    random = torch.randn(mine + count, generator=torch.Generator().manual_seed(rank))
    values = windows(random, mine)
    found = {"gemfit": _gemfit(folder / "gemfit", values, shape, rank * mine)}
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder / "gemfit")
    found["async_save"] = _async_save(folder / "torch", values, shape, ranks)
    if rank == 0:
        out.write_text(json.dumps({"bytes": count * rows * COLUMNS * 4, **found}))
    dist.destroy_process_group()


def windows(memory: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Tensors of ``size`` numbers at every place of ``memory``, each with a storage of its own size.

    Torch would copy one of a larger storage before it writes it.
    """
    numbers = memory.numpy()
    return {f"model.{n}": torch.from_numpy(numbers[n : n + size]) for n in range(len(memory) - size)}


def zeros_like(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As many tensors of this size, which overlap as ``values`` do."""
    size = len(next(iter(values.values())))
    return windows(torch.zeros(size + len(values)), size)


def _gemfit(folder: Path, values: dict[str, torch.Tensor], shape: torch.Size, start: int) -> dict[str, Any]:
    run = RunDir(folder)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    context = SaveContext(attempt=0, strategy="fsdp2", plan_digest="0" * 32, training={}, keep=1)
    state: Any = {name: FlatShard(flat, start, shape) for name, flat in values.items()}
    copy = HostMemory().copy(state, everything=False)
    snapshot = Snapshot(step=1, cursor_row=0, eval_loss=None, copy=copy, side_files={})
    saved = counted(lambda: write(run, context, snapshot))
    newest = newest_listed(run)
    assert newest is not None
    path, manifest = newest
    empty = {name: FlatShard(flat, start, shape) for name, flat in zeros_like(values).items()}
    damage: list[str | None] = []
    resumed = counted(lambda: damage.append(verified_load.load(empty, path, manifest.files)))
    assert damage == [None]
    assert all(map(torch.equal, (shard.flat for shard in empty.values()), values.values()))
    one = next(iter(values))
    whole = {one: FlatShard(torch.zeros(shape.numel()), 0, shape)}
    replicated = counted(lambda: damage.append(verified_load.load(whole, path, manifest.files)))
    assert torch.equal(whole[one].flat[start : start + len(values[one])], values[one])
    return {"save": saved, "resume": resumed, "replicated": replicated}


class NoCopyStager(AsyncStager):
    """Hands tensors over as they are: nothing changes them while they are written."""

    _synchronize_after_execute = False

    def stage(self, state_dict: Any) -> Any:
        return state_dict


def _async_save(
    folder: Path, values: dict[str, torch.Tensor], shape: torch.Size, ranks: int
) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (ranks,))

    def sharded(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {
            name: DTensor.from_local(flat.view(-1, COLUMNS), mesh, [Shard(0)])
            for name, flat in tensors.items()
        }

    def save() -> None:
        saving: Any = async_save(sharded(values), checkpoint_id=folder, async_stager=NoCopyStager())
        saving.result()

    saved = counted(save)
    empty = zeros_like(values)
    resumed = counted(lambda: load(sharded(empty), checkpoint_id=folder))
    assert all(torch.equal(empty[name], flat) for name, flat in values.items())
    return {"save": saved, "resume": resumed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=2, help="size of the checkpoint, in 10⁹ bytes")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary folder if left out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        out = Path(folder) / "found.json"
        torch.multiprocessing.spawn(
            measure,
            (arguments.ranks, round(arguments.gb * 1e9), Path(folder), out),
            nprocs=arguments.ranks,
        )
        found = json.loads(out.read_text())
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"{found['bytes'] / 1e9:.2f} GB by {arguments.ranks} processes; bytes per byte of checkpoint\n")
    print("| | written | read | seconds |\n|---|---:|---:|---:|")
    for way in ("gemfit", "async_save"):
        for what, figures in found[way].items():
            share = {key: figures[key] / found["bytes"] for key in ("written", "read")}
            print(
                f"| {way}, {what} | {share['written']:.3f} | {share['read']:.3f} | {figures['seconds']:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
