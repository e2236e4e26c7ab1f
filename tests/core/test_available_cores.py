"""Cores of this process under affinity, Slurm and CPU quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemfit.core import available_cores as module
from gemfit.core.available_cores import available_cores


@pytest.fixture(autouse=True)
def host_of_64_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setattr(module, "CGROUPS", tmp_path)
    monkeypatch.setattr(module, "_groups", lambda own: ["jobs/pod", "jobs", "."])


def test_without_limits_the_affinity_counts() -> None:
    assert available_cores() == 64


@pytest.mark.parametrize(("given", "cores"), [("8", 8), ("128", 64), ("0", 64), ("", 64), ("x", 64)])
def test_a_slurm_job_has_the_cores_it_was_given(
    monkeypatch: pytest.MonkeyPatch, given: str, cores: int
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", given)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("400000 100000", 4), ("50000 100000", 1), ("9900000 100000", 64), ("?", 64)],
)
def test_a_container_has_the_cores_of_its_quota(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "jobs" / "pod").mkdir(parents=True)
    (tmp_path / "jobs" / "cpu.max").write_text(f"{quota}\n")
    (tmp_path / "jobs" / "pod" / "cpu.max").write_text("max 100000\n")
    assert available_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 64), ("250000", 3)])
def test_quotas_of_older_control_groups_count_too(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores() == cores


def test_the_groups_of_a_process_are_those_of_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    own = tmp_path / "cgroup"
    own.write_text("3:cpu:/old\n0::/jobs/pod\n")
    assert list(module._groups(own)) == ["jobs/pod", "jobs", "."]
    assert list(module._groups(tmp_path / "absent")) == []
