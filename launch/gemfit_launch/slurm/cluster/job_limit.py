"""The time limit that Slurm gives a job of a site, and whether the signal to save comes before it."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Partition, ask_partitions, named_partitions
from gemfit_launch.slurm.commands import SlurmError
from gemfit_launch.slurm.durations import asked_limit


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
    return JobLimit(asked_limit(site.time), "`time`")


def check_lead(site: Site) -> None:
    """``UserError`` if the signal to save would come at the start of the job.

    Such a job would stop, be requeued and stop again after each step. A cluster that does not tell its
    partitions is left to sbatch.
    """
    try:
        partitions = ask_partitions()
    except SlurmError:
        return
    for name in named_partitions(site.partition, partitions):
        if name not in partitions:
            continue
        limit = job_limit(site, partitions[name])
        if limit.seconds is not None and limit.seconds <= site.signal_lead_seconds:
            raise UserError(
                f"site {site.name}: a job gets {limit.seconds} seconds ({limit.source}), and is to save "
                f"{site.signal_lead_seconds} seconds before their end; set `time`, or lower "
                "`signal_lead_seconds`"
            )
