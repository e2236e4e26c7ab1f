"""Nodes of an attempt on which a rank was slower than the others, where the site avoids them."""

from __future__ import annotations

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import SlowRankRecord
from gemfit_launch.runs.metrics_tail import recent_records
from gemfit_launch.slurm.records.job_attempts import newest_start
from gemfit_launch.slurm.sites.planned_site import site_of


def slow_nodes(run: RunDir) -> tuple[str, ...]:
    """Nodes of the last attempt that its records name as slow; none unless ``site.avoid_slow_nodes``."""
    start = newest_start(run)
    if start is None or not site_of(run.plan()).avoid_slow_nodes:
        return ()
    hosts = {
        record.host
        for record in recent_records(run.metrics_file)
        if isinstance(record, SlowRankRecord) and record.attempt == start.attempt
    }
    return tuple(node for node in start.nodes if node in hosts)
