"""The time limit that Slurm gives a job of a site, and whether the signal to save comes before it."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Partition, ask_partitions, default_partition
from gemfit_launch.slurm.commands import SlurmError
from gemfit_launch.slurm.durations import seconds

NO_LIMIT = ("0", "UNLIMITED", "INFINITE")


@dataclass(frozen=True, slots=True)
class JobLimit:
    """A limit in seconds, ``None`` for none, and what decides it."""

    seconds: int | None
    source: str


def job_limit(site: Site, partition: Partition) -> JobLimit:
    """Limit of a job; one that asks for none gets DefaultTime of its partition, else MaxTime.

    A `time` that is not in sbatch's notation is a ``UserError``.
    """
    if site.time is None:
        if partition.default_seconds is not None:
            return JobLimit(partition.default_seconds, f"`time` is not set: DefaultTime of {partition.name}")
        return JobLimit(partition.max_seconds, f"MaxTime of {partition.name}")
    if site.time.upper() in NO_LIMIT:
        return JobLimit(None, "`time`")
    if (limit := seconds(site.time)) is None:
        raise UserError(f"{site.time} is not a time in the format of sbatch, such as 1-00:00:00")
    return JobLimit(limit, "`time`")


def check_lead(site: Site) -> None:
    """``UserError`` if the signal to save would come at the start of the job.

    Such a job would stop, be requeued and stop again after each step. A cluster that does not tell its
    partitions is left to sbatch.
    """
    try:
        partitions = ask_partitions()
    except SlurmError:
        return
    partition = partitions.get(site.partition or default_partition(partitions) or "")
    if partition is None:
        return
    limit = job_limit(site, partition)
    if limit.seconds is not None and limit.seconds <= site.signal_lead_seconds:
        raise UserError(
            f"site {site.name}: a job gets {limit.seconds} seconds ({limit.source}), and is to save "
            f"{site.signal_lead_seconds} seconds before their end; set `time`, or lower `signal_lead_seconds`"
        )
