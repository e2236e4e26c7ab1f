"""``gemfit fetch``: which cache the jobs of a site read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gemfit.core.hub_commit import hub_cache, is_offline
from gemfit.errors import ExitCode, UserError
from gemfit.schemas.site import Container, Site
from gemfit_launch.cli import main
from gemfit_launch.slurm.sites.hub_environment import hub_environment, planning_environment

HERE = {"HOME": "/home/me", "HF_HOME": "/home/me/hf"}


def site(**values: Any) -> Site:
    return Site(name="s", **values)


def container(*mounts: str, kind: Any = "apptainer") -> Container:
    return Container(kind=kind, image="image.sif", mounts=mounts)


@pytest.mark.parametrize(
    ("where", "cache"),
    [
        (site(), "/home/me/hf/hub"),
        (site(env={"HF_HOME": "/scratch/hf"}), "/scratch/hf/hub"),
        (site(env={"HF_HUB_CACHE": "/scratch/cache"}, setup=("export HF_HOME=/x",)), "/scratch/cache"),
        (site(env={"HF_HOME": "/hf"}, container=container("/scratch/me:/hf")), "/scratch/me/hub"),
        (site(env={"HF_HOME": "/hf"}, container=container("/a:/b", "/c/d:/hf:rw", kind="pyxis")), "/c/d/hub"),
    ],
)
def test_the_cache_is_the_one_that_jobs_read(where: Site, cache: str) -> None:
    environment = hub_environment(where, HERE)
    assert hub_cache(environment) == Path(cache)
    assert environment["HF_TOKEN_PATH"] == "/home/me/hf/token"


def test_without_a_site_nothing_changes() -> None:
    assert hub_environment(None, HERE) == HERE


def test_apptainer_has_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert hub_cache(hub_environment(site(container=container()), HERE)) == Path("/home/me/hf/hub")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (site(setup=("module load x", "export HF_HOME=/x")), "write it as env.HF_HOME"),
        (site(env={"HF_HOME": "/hf"}, container=container("/a:/hfx")), "add /hf:/hf to container.mounts"),
        (site(container=container(kind="pyxis")), "add /home/me/hf:/home/me/hf to container.mounts"),
    ],
)
def test_a_cache_that_is_not_known_here_is_refused_by_fetch_and_ignored_by_plans(
    where: Site, says: str
) -> None:
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        hub_environment(where, HERE)
    assert planning_environment(where, HERE) == HERE


def test_nodes_may_be_offline_where_the_login_node_is_not() -> None:
    assert is_offline(hub_environment(site(env={"HF_HUB_OFFLINE": "1"}), HERE))


def test_site_settings_need_a_site() -> None:
    asked = ["fetch", "debug/cpu-tiny", "--site-set", "partition=x"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == ExitCode.USER_ERROR
    assert "give --site SITE with it" in done.output
