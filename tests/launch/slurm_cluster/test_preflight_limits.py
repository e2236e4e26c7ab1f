"""Preflight checks of the time limit and of preemption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemfit.schemas.plan import Plan, Topology
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
)
from gemfit_launch.slurm.cluster.generate_site import first_site
from gemfit_launch.slurm.cluster.preflight import examine
from gemfit_launch.slurm.cluster.preflight_limits import Pace
from gemfit_launch.slurm.cluster.preflight_local import predicted_pace
from launch.slurm_cluster.preflight_cases import errors, planned


@pytest.mark.parametrize(("save", "state"), [(10.0, "ok"), (200.0, "warning")])
def test_notice_before_preemption_is_compared_with_a_step_and_a_save(
    save: float, state: str, plan: Plan, cluster: Cluster
) -> None:
    pace = Pace(step_seconds=5.0, save_seconds=save, checkpoint_bytes=1)
    results = examine(planned(plan), cluster, pace, resolves=lambda host: True)
    found = {result.name: result for result in results}
    assert found["preemption"].state == state
    assert "150 seconds" in found["preemption"].found


def test_a_save_of_27b_is_predicted_from_the_disk_of_the_site(plan: Plan, cluster: Cluster) -> None:
    def pace(**site: Any) -> Pace | None:
        recipe = Request(name="gemma3/27b").recipe()
        made = planned(plan, gpus_per_node=8, **site)
        topology = Topology(nodes=8, ranks_per_node=8, device="cuda")
        return predicted_pace(resolve_plan(recipe, topology, site=made.site))

    assert pace(gpu_kind="h100") is None, "the disk is unknown"
    found = pace(gpu_kind="h100", disk_gb_per_second=1.0)
    assert found is not None
    assert found.save_seconds == pytest.approx(324.2, abs=0.2)
    late = errors(examine(planned(plan, time="1-0"), cluster, found, resolves=lambda host: True))
    assert [name for name, _ in late] == ["signal_lead_seconds"]
    assert late[0][1].endswith("(predicted)")


def test_a_signal_that_comes_too_late_to_save_is_an_error(plan: Plan, cluster: Cluster) -> None:
    pace = Pace(step_seconds=100.0, save_seconds=200.0, checkpoint_bytes=1)
    found = errors(examine(planned(plan, time="1-0"), cluster, pace, resolves=lambda host: True))
    assert found == [("signal_lead_seconds", "is 300; a step and a save need 360")]


@pytest.mark.parametrize(
    ("settings", "mode", "state", "words"),
    [
        ({}, "cancel", "warning", "does not come back"),
        ({}, "suspend", "ok", "is suspended without notice"),
        ({"PreemptType": "preempt/qos"}, "cancel", "ok", "the QOS decides"),
    ],
)
def test_each_kind_of_preemption_is_described(
    settings: dict[str, str], mode: Any, state: str, words: str, plan: Plan, cluster: Cluster
) -> None:
    gpu = replace(cluster.partitions["gpu"], preemption=mode)
    changed = replace(cluster, settings=cluster.settings | settings, partitions={"gpu": gpu})
    results = examine(planned(plan, cpus_per_node=8), changed, None, resolves=lambda host: True)
    (found,) = [result for result in results if result.name == "preemption"]
    assert (found.state, words in found.found) == (state, True)
    assert {"cancel": "PreemptMode=CANCEL", "suspend": "suspended"}[mode] in first_site(
        replace(changed, settings=cluster.settings), None
    )


def test_a_job_without_a_time_gets_the_default_time_of_its_partition(plan: Plan, cluster: Cluster) -> None:
    gpu = replace(cluster.partitions["gpu"], default_seconds=180, max_seconds=None)
    short = replace(cluster, partitions={"gpu": gpu})
    found = errors(examine(planned(plan), short, None, resolves=lambda host: True))
    assert found == [
        (
            "time",
            "signal_lead_seconds is 300, and the time limit only 180 seconds "
            "(`time` is not set: DefaultTime of gpu)",
        )
    ]
    assert "\ntime: 1-00:00:00 " in first_site(short, None)
    assert errors(examine(planned(plan, time="1-0"), short, None, resolves=lambda host: True)) == []


@pytest.mark.parametrize("time", ["0", "UNLIMITED"])
def test_no_limit_is_longer_than_a_partition_that_has_one(time: str, plan: Plan, cluster: Cluster) -> None:
    found = errors(examine(planned(plan, time=time), cluster, None, resolves=lambda host: True))
    assert found == [
        (
            "time",
            f"{time} is longer than gpu allows (172800 seconds); "
            "Slurm takes such a job, which then waits for ever (EnforcePartLimits=NO)",
        )
    ]
