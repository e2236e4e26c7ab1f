"""One real Slurm for all tests of this folder; where it cannot be installed they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from realslurm import Cluster, NoSlurm, running_cluster
from slurmruns import Bench


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes; partitions low (no grace), lowgrace (15 seconds) and high, which preempts both."""
    try:
        with running_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
            yield cluster
    except NoSlurm as reason:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test on a real Slurm: {reason}")
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def bench(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Packed conversations on that cluster."""
    return Bench.prepare(cluster, tmp_path_factory.mktemp("bench"))
