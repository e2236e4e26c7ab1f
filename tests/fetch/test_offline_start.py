"""Fetched on a login node, started with the network closed: the check of a preflight, and a run itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fetch.conftest import DATASET, MODEL
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.check import CheckResult, error, ok
from gemfit.schemas.pin_revisions import pin_revisions
from gemfit.schemas.plan import PackReference, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.schemas.site import Site
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.slurm.cluster import preflight_offline
from gemfit_launch.slurm.sites.hub_environment import planning_environment
from publish.server import HubServer

LONELY = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
RECIPE = f"""
model: {{id: {MODEL}, dtype: float32, attention: sdpa}}
data: {{source: "hf:{DATASET}", hf_config: chats, seq_len: 128}}
batch: {{global_batch_size: 2}}
length: {{max_steps: 2, num_epochs: null}}
evaluation: {{every_steps: 2}}
strategy: {{kind: single}}
"""


def gemfit(*arguments: str, lonely: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*(LONELY if lonely else []), sys.executable, "-m", "gemfit_launch.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def has_namespaces() -> bool:
    """Whether this machine lets a process have a network of its own, with a loopback interface."""
    try:
        return subprocess.run([*LONELY[:-2], "ip link set lo up"], capture_output=True).returncode == 0
    except OSError:
        return False


def results(site: Site, pinned_in: Mapping[str, str] | None = None) -> dict[str, CheckResult]:
    """What a preflight says of a job of ``site``."""
    data = DataRecipe(source=f"hf:{DATASET}", hf_config="chats")
    recipe = Recipe(model=ModelRecipe(id=MODEL), data=data)
    recipe = pin_revisions(recipe, pinned_in or planning_environment(site))
    plan = make_plan(
        recipe,
        topology=Topology(nodes=1, ranks_per_node=1, device="cpu"),
        pack=PackReference(fingerprint="0" * 32, folder="none"),
        rows=100,
        rows_are_packed=False,
    )
    return {result.name: result for result in preflight_offline.check_offline_start(plan, site)}


@pytest.mark.slow
def test_what_was_fetched_starts_with_the_network_closed(hub: HubServer, tmp_path: Path) -> None:
    """One server, cache and site for the whole way, since each process imports torch."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    cache = tmp_path / "jobs" / "cache"
    (tmp_path / "site.yaml").write_text(
        f"gpus_per_node: 0\nenv: {{HF_HUB_CACHE: {cache}, HF_HUB_OFFLINE: '1'}}\n"
    )
    site = Site(name="site", gpus_per_node=0, env={"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
    asked = [str(tmp_path / "recipe.yaml"), "--site", str(tmp_path / "site.yaml")]
    done = gemfit("fetch", *asked, "--json")
    assert done.returncode == 0, done.stderr
    model, _ = json.loads(done.stdout)
    assert model["folder"].startswith(str(cache))

    hub.requests.clear()
    after = results(site)
    assert {result.state for result in after.values()} == {"ok"}
    assert "headers of 5 safetensors files" in after["weights"].found
    assert not hub.requests

    if not has_namespaces():
        pytest.skip("the rest needs a network namespace, and `ip`")
    closed = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "GEMFIT_CACHE": str(tmp_path / "packs")}
    run = gemfit("run", asked[0], "--device", "cpu", "--run", str(tmp_path / "run"), lonely=True, **closed)
    assert run.returncode == 0, run.stderr[-2000:]
    verdict = RunDir(tmp_path / "run").verdict()
    assert verdict is not None
    assert verdict.outcome == AttemptOutcome.COMPLETED
    assert verdict.step == 2


@pytest.mark.parametrize("offline", [False, True])
def test_what_the_cache_lacks_is_an_error_only_where_nodes_are_offline(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    lacking = error("node start", "weights", "not in the cache")
    monkeypatch.setattr(preflight_offline, "_ask", lambda plan, environment: (lacking,))
    site = Site(name="site", gpus_per_node=0, env={"HF_HUB_OFFLINE": "1"} if offline else {})
    (found,) = results(site, os.environ).values()
    assert found.state == ("error" if offline else "warning")
    assert "gemfit fetch RECIPE --site site" in found.do


def test_a_full_cache_tells_how_to_say_that_nodes_have_no_network(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_offline, "_ask", lambda plan, environment: (ok("a", "weights", "read"),))
    found = results(Site(name="site", gpus_per_node=0))
    assert "set env.HF_HUB_OFFLINE to '1'" in found["hub cache"].found
    assert not preflight_offline.hub_names(Recipe(model=ModelRecipe(scratch=ScratchModel())))


def test_a_cache_that_is_not_known_here_is_a_warning(hub: HubServer) -> None:
    found = results(Site(name="site", gpus_per_node=0, setup=("export HF_HOME=/x",)))
    assert found["hub cache"].state == "warning"
