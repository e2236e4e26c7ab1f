"""A run in a job on two nodes, with a small program in place of scontrol."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.slurm.node import job
from launch.slurm_job.hooks import SCONTROL, Calls, show


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    topology = plan.topology.model_copy(update={"nodes": 2})
    changes = {"topology": topology, "site": Site(name="test", signal_lead_seconds=60)}
    return RunDir.create(tmp_path / "run", plan.model_copy(update=changes))


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What Slurm was asked to change."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(SCONTROL.format(folder=tmp_path))
    tool.chmod(0o755)
    show(tmp_path, "RUNNING")
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "n1,n2", "JOB_NUM_NODES": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(job, "SUBMISSION_SECONDS", 0.0)
    monkeypatch.setattr(job, "PACK_SECONDS", 0.0)
    monkeypatch.setattr(job, "finished_pack", lambda folder: None if "gone" in str(folder) else "a pack")

    def made() -> list[str]:
        lines = (tmp_path / "calls").read_text().splitlines()
        return [line for line in lines if not line.startswith("show")]

    return made
