"""Preflight checks of the time limit and of preemption. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Cluster, Partition
from gemfit_launch.slurm.cluster.job_limit import job_limit

ABOUT = "cluster"
MARGIN_SECONDS = 60
"""Slurm checks time limits every 30 seconds, and signals up to a minute early or late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Step and save times, measured in an earlier run or predicted, and the checkpoint size."""

    step_seconds: float
    save_seconds: float
    checkpoint_bytes: int
    predicted: bool = False

    @property
    def stop_seconds(self) -> float:
        """Worst case from a stop request until the checkpoint is saved."""
        return self.step_seconds + self.save_seconds


def check_time(
    site: Site, partition: Partition, cluster: Cluster, pace: Pace | None
) -> Iterator[CheckResult]:
    """The limit that the job gets, the signal before it, and the time of a step and a save."""
    try:
        limit, longest = job_limit(site, partition), partition.max_seconds
    except UserError as mistake:
        yield error(ABOUT, "time", str(mistake))
        return
    if longest is not None and (limit.seconds is None or limit.seconds > longest):
        asked = site.time if site.time is not None else f"{limit.seconds} seconds ({limit.source})"
        yield error(
            ABOUT,
            "time",
            f"{asked} is longer than {partition.name} allows ({longest} seconds); {cluster.refusal}",
        )
        return
    if limit.seconds is None:
        yield ok(ABOUT, "time", "no limit")
        return
    if site.signal_lead_seconds + MARGIN_SECONDS >= limit.seconds:
        yield error(
            ABOUT,
            "time",
            f"signal_lead_seconds is {site.signal_lead_seconds}, and the time limit only {limit.seconds} "
            f"seconds ({limit.source})",
        )
    else:
        yield ok(
            ABOUT,
            "time",
            f"{limit.seconds} seconds ({limit.source}), signalled to save {site.signal_lead_seconds} before",
        )
    if pace is not None and pace.stop_seconds + MARGIN_SECONDS > site.signal_lead_seconds:
        needed = round(pace.stop_seconds) + MARGIN_SECONDS
        how = " (predicted)" if pace.predicted else ""
        yield error(
            ABOUT,
            "signal_lead_seconds",
            f"is {site.signal_lead_seconds}; a step and a save need {needed}{how}",
        )


def check_preemption(partition: Partition, cluster: Cluster, pace: Pace | None) -> Iterator[CheckResult]:
    """What a preempted job meets: a requeue after some notice, an end, or a suspension."""
    if partition.preemption == "off":
        return
    if cluster.preempts_by_qos:
        yield ok(
            ABOUT,
            "preemption",
            "the QOS decides how: `sacctmgr show qos format=name,preemptmode,gracetime`",
        )
        return
    if partition.preemption == "suspend":
        yield ok(ABOUT, "preemption", "a preempted job is suspended without notice, and continues later")
        return
    window = partition.grace_seconds + cluster.kill_wait_seconds
    text = f"{window} seconds from notice to kill (GraceTime {partition.grace_seconds})"
    yield _with_notice(text, window, pace, is_requeued=partition.preemption == "requeue")


def _with_notice(text: str, window: int, pace: Pace | None, *, is_requeued: bool) -> CheckResult:
    how = ", as predicted" if pace is not None and pace.predicted else ""
    if pace is not None and pace.stop_seconds <= window:
        return ok(ABOUT, "preemption", f"{text}; a step and a save take {pace.stop_seconds:.0f}{how}")
    if pace is None and is_requeued:
        return ok(ABOUT, "preemption", f"{text}; --like RUN compares it with what a run took")
    longer = "" if pace is None else f", but a step and a save take {pace.stop_seconds:.0f}{how}"
    if is_requeued:
        return warning(
            ABOUT,
            "preemption",
            f"{text}{longer}: a preempted job goes back to its last checkpoint",
            "save more often (checkpoint.every_steps)",
        )
    return warning(
        ABOUT,
        "preemption",
        f"{text}{longer}; PreemptMode=CANCEL: a job that has not saved by then does not come back",
        "`gemfit resume` brings it back; --like RUN compares the notice with what a run took",
    )
