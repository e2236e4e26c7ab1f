"""First batch after opening a pack of a million rows, and a seek in it, compared with a thousand rows.

    python benchmarks/pack_reading.py

Opening and reading are done as training does: the rows of a step follow from seed and step, and each rank
takes its share. The peer is `datasets`: `load_from_disk`, `shuffle(seed)`, then the same places by number.
The seek goes to row 900,000 of the epoch (row 900 of the small pack). The rows are short (16 tokens by
default), so that a million fit into little disk and the page cache; batches and files hold as many rows
as those of 2,048 tokens would. Times are medians in milliseconds, each of a fresh opening on warm files;
`order only` is what of them finding the numbers of the rows takes. The permutation of at most 32,768 rows
is cached for two epochs, and so warm here. Under other load of the machine, `beyond CPU` says more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import load_from_disk

from gemfit.data.build.shards import WrittenShard, describe_split, row_schema
from gemfit.data.pack.reader import file_digest, open_pack
from gemfit.data.pack.shuffle import rank_rows, rows_at, rows_of_step
from gemfit.schemas.batch import Batch
from gemfit.schemas.manifest import Losses, PackManifest, SplitCounts

PER_RANK = 8
SEED = 7
BATCH_ROWS = 256
SHARD_ROWS = 64 * BATCH_ROWS
LIMIT_MS = 5.0
"""What a thousand times the rows may cost more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seq-len", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packs = {
            rows: make_pack(Path(scratch) / str(rows), rows, arguments.seq_len)
            for rows in (1000, arguments.rows)
        }
        results = [
            measure(packs, world, share, arguments.repeats) for world in (1, 3, 64) for share in (0.0, 0.9)
        ]
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        report(results, arguments.rows)
    return 0 if all(result["beyond_ms"] < LIMIT_MS for result in results) else 1


def make_pack(folder: Path, num_rows: int, seq_len: int) -> Path:
    """A pack of random rows, one document each."""
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    count = -(-num_rows // SHARD_ROWS)
    shards = []
    for shard in range(count):
        path = folder / "train" / f"data-{shard:05d}-of-{count:05d}.arrow"
        shards.append(write_shard(folder, path, shard * SHARD_ROWS, num_rows, seq_len, rng))
    describe_split(folder / "train", "train", seq_len, "0" * 32, shards)
    (folder / "manifest.json").write_text(manifest(folder, num_rows, seq_len).to_json())
    return folder


def write_shard(
    folder: Path, path: Path, start: int, num_rows: int, seq_len: int, rng: np.random.Generator
) -> WrittenShard:
    schema = row_schema(seq_len)
    edges, stop = [], min(start + SHARD_ROWS, num_rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first in range(start, stop, BATCH_ROWS):
            # The schema is written with the first batch.
            edges.append((first, sink.tell() or schema.serialize().size))
            writer.write_batch(random_batch(schema, min(BATCH_ROWS, stop - first), seq_len, rng))
    counts = np.full((2, stop - start), seq_len, np.int64)
    return WrittenShard(digest=file_digest(folder, path), batches=np.array(edges, np.int64), counts=counts)


def random_batch(schema: pa.Schema, rows: int, seq_len: int, rng: np.random.Generator) -> pa.RecordBatch:
    ids = pa.array(rng.integers(0, 2**18, rows * seq_len, np.int32))
    ends = pa.array(np.arange(rows + 1, dtype=np.int32))
    square = pa.FixedSizeListArray.from_arrays(ids, type=schema.field("input_ids").type)
    full, zero = pa.array(np.full(rows, seq_len, np.int32)), pa.array(np.zeros(rows, np.int32))
    numbers = pa.array(np.arange(rows, dtype=np.int64))
    ragged = [pa.ListArray.from_arrays(ends, values) for values in (full, numbers, zero, zero)]
    return pa.RecordBatch.from_arrays([square, square, *ragged, full, full], schema=schema)


def manifest(folder: Path, num_rows: int, seq_len: int) -> PackManifest:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    nothing = dict.fromkeys((name for name, one in Losses.model_fields.items() if one.is_required()), 0)
    tokens = num_rows * seq_len
    return PackManifest(
        fingerprint="0" * 32,
        tokenizer_digest="0" * 32,
        format="role_markers",
        eos="token",
        loss_on="all",
        seq_len=seq_len,
        overlong="split",
        pad_id=0,
        bos_id=None,
        eos_id=1,
        splits={
            "train": SplitCounts(
                rows=num_rows,
                conversations=num_rows,
                documents=num_rows,
                tokens=tokens,
                trained_tokens=tokens,
            )
        },
        losses=Losses(**nothing),
        files=tuple(file_digest(folder, path) for path in files),
        versions={},
    )


def measure(packs: dict[int, Path], world: int, share: float, repeats: int) -> dict[str, Any]:
    """One world size, from the beginning or after a seek: both packs, both readers."""
    result: dict[str, Any] = {"world_size": world, "what": "seek" if share else "first batch"}
    for size, (rows, folder) in zip(("small", "large"), sorted(packs.items()), strict=True):
        at = int(share * rows)
        result[f"ours_{size}_ms"] = median(lambda: ours(folder, rows, at, world), repeats)  # noqa: B023
        result[f"order_{size}_ms"] = median(lambda: order(rows, at), repeats)  # noqa: B023
        result[f"datasets_{size}_ms"] = median(lambda: peer(folder, at), repeats)  # noqa: B023
    rows, folder = max(packs.items())
    few, small = min(packs.items())
    cpu = [
        median(lambda: ours(folder, rows, int(share * rows), world), repeats, time.process_time),
        median(lambda: ours(small, few, int(share * few), world), repeats, time.process_time),
    ]
    result["beyond_cpu_ms"] = cpu[0] - cpu[1]
    result["beyond_ms"] = result["ours_large_ms"] - result["ours_small_ms"]
    result["ratio"] = result["datasets_large_ms"] / result["ours_large_ms"]
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def ours(folder: Path, num_rows: int, at: int, world: int) -> None:
    """Open, and read what the last rank takes of the step with row ``at`` of the epoch."""
    rows = open_pack(folder, "train")
    batch = Batch(
        global_batch_size=PER_RANK * world,
        seq_len=1,
        world_size=world,
        per_device_batch_size=PER_RANK,
        gradient_accumulation_steps=1,
    )
    taken = rows_of_step(
        at // batch.global_batch_size,
        global_batch_size=batch.global_batch_size,
        rows_per_epoch=len(rows),
        total_rows=2 * len(rows),
        seed=SEED,
    )
    for micro in rank_rows(taken, batch, world - 1):
        np.stack([rows[int(row)].input_ids for row in micro])


def order(num_rows: int, at: int) -> None:
    rows_at(np.arange(at, at + PER_RANK), seed=SEED, epoch=0, rows=num_rows)


def peer(folder: Path, at: int) -> None:
    rows = load_from_disk(str(folder / "train")).shuffle(seed=SEED)
    np.array(rows[at : at + PER_RANK]["input_ids"])


def median(call: Callable[[], None], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds of the median call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        began = clock()
        call()
        times.append(1000 * (clock() - began))
    return statistics.median(times)


def report(results: list[dict[str, Any]], num_rows: int) -> None:
    print(f"milliseconds; small: 1,000 rows, large: {num_rows:,}\n")
    heads = "ours small  ours large  order only      beyond  beyond CPU  datasets small  large  ratio"
    print(f"world  what         {heads}")
    for r in results:
        numbers = [
            r[f"{what}_ms"] for what in ("ours_small", "ours_large", "order_large", "beyond", "beyond_cpu")
        ]
        peers = f"{r['datasets_small_ms']:>14.1f}  {r['datasets_large_ms']:>5.1f}  {r['ratio']:>4.1f}x"
        ours = "  ".join(f"{number:>10.2f}" for number in numbers)
        print(f"{r['world_size']:>5}  {r['what']:<11}  {ours}  {peers}")
    most = max(r["beyond_ms"] for r in results)
    print(f"\nmost beyond a pack of 1,000 rows: {most:.2f} ms (limit {LIMIT_MS})")


if __name__ == "__main__":
    sys.exit(main())
