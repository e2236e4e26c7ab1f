"""The second half of a build: rows gathered from the blocks and written, shards of both splits at once."""

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
    at: Callable[[int], None] = lambda done: None,
) -> tuple[list[FileDigest], dict[str, int]]:
    """Write every split; digests of the shards, and the trained tokens of each split.

    ``at`` gets the number of rows done.
    """
    by_name = {plan.name: plan for plan in plans}
    jobs = [job for plan in plans for job in shard_jobs(plan, source.seq_len)]
    for plan in plans:
        (folder / plan.name).mkdir()
    # Workers count in memory that all see; each in a place of its own, so that nothing is lost.
    rows = np.frombuffer(mmap.mmap(-1, 8 * len(jobs)), np.int64)
    place = {(job.split, job.number): index for index, job in enumerate(jobs)}

    def work(job: ShardJob) -> WrittenShard:
        def more(count: int) -> None:
            rows[place[job.split, job.number]] += count

        return write_shard(folder, job, by_name[job.split], source, more)

    written = {
        (job.split, job.number): shard
        for job, shard in run_tasks(
            jobs,
            work,
            num_workers=min(num_workers, len(jobs)),
            describe=lambda job: f"{folder / job.split / job.name}",
            tick=lambda: at(int(rows.sum())),
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
