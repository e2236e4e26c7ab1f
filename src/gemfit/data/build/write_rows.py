"""Parallel writing of rows: gathered from the blocks, shards of both splits at once."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gemfit.data.build.shards import (
    ShardJob,
    Source,
    SplitPlan,
    WrittenShard,
    describe_split,
    shard_jobs,
    write_shard,
)
from gemfit.data.build.worker_pool import run_tasks
from gemfit.schemas.manifest import FileDigest


def write_rows(
    folder: Path,
    plans: Sequence[SplitPlan],
    source: Source,
    *,
    fingerprint: str,
    num_workers: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[FileDigest], dict[str, int]]:
    """Write every split; returns the digests of the shards, and the trained tokens of each split.

    ``on_progress`` gets the number of rows written so far.
    """
    by_name = {plan.name: plan for plan in plans}
    jobs = [job for plan in plans for job in shard_jobs(plan, source.seq_len)]
    for plan in plans:
        (folder / plan.name).mkdir()
    # Workers count in shared memory, each in an element of its own, without locks.
    rows = np.frombuffer(mmap.mmap(-1, 8 * len(jobs)), np.int64)
    index_of = {(job.split, job.number): index for index, job in enumerate(jobs)}

    def work(job: ShardJob) -> WrittenShard:
        def count_rows(count: int) -> None:
            rows[index_of[job.split, job.number]] += count

        return write_shard(folder, job, by_name[job.split], source, count_rows)

    written = {
        (job.split, job.number): shard
        for job, shard in run_tasks(
            jobs,
            work,
            num_workers=min(num_workers, len(jobs)),
            describe=lambda job: f"{folder / job.split / job.name}",
            tick=lambda: on_progress(int(rows.sum())),
        )
    }
    shards = {
        plan.name: [shard for (split, _), shard in sorted(written.items()) if split == plan.name]
        for plan in plans
    }
    for name, group in shards.items():
        describe_split(folder / name, name, source.seq_len, fingerprint, group)
    digests = [shard.digest for group in shards.values() for shard in group]
    return digests, {name: sum(int(s.counts[1].sum()) for s in group) for name, group in shards.items()}
