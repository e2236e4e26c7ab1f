"""States, partitions and exits of a real Slurm, as the launcher reads them."""

from __future__ import annotations

import getpass
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemfit.schemas.site import Site
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.cluster import ask_cluster
from gemfit_launch.slurm.cluster.job_limit import job_limit
from gemfit_launch.slurm.cluster.requeue import excluded, set_excluded, show_job, usable_nodes
from gemfit_launch.slurm.commands import job_ids
from gemfit_launch.slurm.submit.template import fill, template
from realslurm import Cluster, wait_until
from slurmruns import BACK_IN_THE_QUEUE_SECONDS

pytestmark = pytest.mark.slurm

ALL = ("--nodes=4", "--exclusive")
IN_SETUP = """\
RUN_DIR={folder}
KIND=train
HOST_PYTHON=({python})
SETUP=('touch "$RUN_DIR/start-${{SLURM_RESTART_COUNT:-0}}"' 'sleep 300')
gemfit_export_env() {{ :; }}
"""


@pytest.fixture(autouse=True)
def login_node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of the launcher reach the cluster of the tests; jobs of a test end with it."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    yield
    cluster.call("scancel", f"--user={getpass.getuser()}", check=False)
    wait_until(lambda: not cluster.call("squeue", "--noheader").strip(), 60)


def start(cluster: Cluster, command: str, *options: str) -> int:
    answer = cluster.call(
        "sbatch", "--parsable", "--output=/dev/null", "--requeue", *options, f"--wrap={command}"
    )
    (number,) = job_ids(answer)
    return number


def reaches(number: int, text: str, phase: str) -> None:
    """Wait until Slurm reports this state, and check its phase."""
    wait_until(
        lambda: commands.jobs([number])[number].state.text == text, 60, lambda: str(commands.jobs([number]))
    )
    assert commands.jobs([number])[number].state.phase == phase


@pytest.mark.parametrize(
    ("command", "text"),
    [("true", "COMPLETED"), ("false", "FAILED"), ("scancel $SLURM_JOB_ID; sleep 60", "CANCELLED")],
)
def test_a_job_that_ends_by_itself_has_ended(command: str, text: str, cluster: Cluster) -> None:
    reaches(start(cluster, command), text, "ended")


def test_a_suspended_job_is_suspended_and_a_held_one_pending(cluster: Cluster) -> None:
    number = start(cluster, "sleep 300")
    reaches(number, "RUNNING", "running")
    cluster.call("scontrol", "suspend", str(number))
    reaches(number, "SUSPENDED", "suspended")
    cluster.call("scontrol", "resume", str(number))
    cluster.call("scontrol", "requeuehold", "State=SpecialExit", str(number))
    reaches(number, "SPECIAL_EXIT", "pending")


def test_a_job_that_is_preempted_without_a_requeue_has_ended(cluster: Cluster) -> None:
    number = start(cluster, "sleep 300", "--partition=lowcancel", *ALL)
    reaches(number, "RUNNING", "running")
    start(cluster, "sleep 1", "--partition=high", *ALL)
    reaches(number, "PREEMPTED", "ended")


def test_partitions_are_read_with_kind_of_preemption_and_default_time(cluster: Cluster) -> None:
    found = ask_cluster()
    kinds = {name: partition.preemption for name, partition in found.partitions.items()}
    low = dict.fromkeys(("low", "lowgrace", "lowshort"), "requeue")
    assert kinds == {**low, "lowcancel": "cancel", "high": "off"}
    assert not found.preempts_by_qos
    assert job_limit(Site(name="s"), found.partitions["low"]).seconds is None
    assert job_limit(Site(name="s"), found.partitions["lowshort"]).seconds == 180


def test_a_drained_node_is_not_usable(cluster: Cluster) -> None:
    assert usable_nodes("low") == {"n1", "n2", "n3", "n4"}
    cluster.call("scontrol", "update", "nodename=n3", "state=drain", "reason=planted")
    try:
        assert usable_nodes("low") == {"n1", "n2", "n4"}
    finally:
        cluster.call("scontrol", "update", "nodename=n3", "state=resume")


def test_excluded_nodes_of_a_job_are_changed_and_cleared(cluster: Cluster) -> None:
    job = str(start(cluster, "true", "--hold", "--exclude=n1,n2"))
    assert excluded(show_job(job)) == ("n1", "n2")
    for nodes in (["n1", "n2", "n4"], ["n4"], [], ["n3"]):
        set_excluded(job, nodes)
        assert excluded(show_job(job)) == tuple(nodes)


def test_a_job_that_waits_for_the_end_of_another_waits_through_its_requeue(
    cluster: Cluster, tmp_path: Path
) -> None:
    first = start(cluster, "sleep 300")
    reaches(first, "RUNNING", "running")
    script = tmp_path / "second.sh"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\ntrue\n")
    second = commands.submit(script, script.name, after_end=[first])
    cluster.call("scontrol", "requeue", str(first))
    wait_until(lambda: (cluster.state(first), cluster.job(first)["Restarts"]) == ("RUNNING", "1"), 60)
    assert cluster.state(second) == "PENDING"
    cluster.call("scancel", str(first))
    reaches(second, "COMPLETED", "ended")


def test_a_final_exit_is_not_requeued_where_the_cluster_requeues_exit_codes(
    cluster: Cluster, tmp_path: Path
) -> None:
    functions = template("train").partition("# >>> functions\n")[2].partition("# <<< functions\n")[0]
    cluster.set_parameters("RequeueExit=1-4\nRequeueExitHold=5,7")
    try:
        looping, held = start(cluster, "exit 2"), start(cluster, "exit 5")
        script = tmp_path / "final.sh"
        script.write_text(f"{functions}\nleave 2\n")
        final = start(cluster, f"bash {script}")
        reaches(final, "FAILED", "ended")
        wait_until(lambda: int(cluster.job(looping)["Restarts"]) > 0, 60)
        assert (cluster.job(final)["Restarts"], cluster.job(final)["ExitCode"]) == ("0", "6:0")
        reaches(held, "SPECIAL_EXIT", "pending")
    finally:
        cluster.set_parameters("")


def start_with_long_setup(cluster: Cluster, folder: Path, python: str, *options: str) -> int:
    """Submit the training script of a run in ``folder``, and wait until it is in its setup."""
    values = IN_SETUP.format(folder=shlex.quote(str(folder)), python=shlex.quote(python))
    script = folder / "train.sbatch"
    script.write_text(fill(fill(template("train"), "directives", ""), "values", values))
    answer = cluster.call(
        "sbatch", "--parsable", f"--output={folder}/log", "--requeue", *options, str(script)
    )
    (number,) = job_ids(answer)
    wait_until((folder / "start-0").is_file, 60)
    return number


@pytest.mark.parametrize("partition", ["low", "lowgrace", "lowcancel"])
@pytest.mark.parametrize("python", [sys.executable, "no-such-python"])
def test_a_job_that_is_preempted_during_setup_comes_back(
    python: str, partition: str, cluster: Cluster, tmp_path: Path
) -> None:
    number = start_with_long_setup(cluster, tmp_path, python, f"--partition={partition}", *ALL)
    start(cluster, "sleep 1", "--partition=high", *ALL)
    wait_until((tmp_path / "start-1").is_file, 120, lambda: str(cluster.job(number)))
    assert not (tmp_path / "verdict.json").exists()


@pytest.mark.parametrize("python", [sys.executable, "no-such-python"])
def test_a_job_that_is_cancelled_during_setup_does_not_come_back(
    python: str, cluster: Cluster, tmp_path: Path
) -> None:
    number = start_with_long_setup(cluster, tmp_path, python)
    cluster.call("scancel", str(number))
    reaches(number, "CANCELLED", "ended")
    time.sleep(BACK_IN_THE_QUEUE_SECONDS)
    assert (cluster.state(number), cluster.job(number)["Restarts"]) == ("CANCELLED", "0")
