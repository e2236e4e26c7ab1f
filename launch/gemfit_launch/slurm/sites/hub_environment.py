"""Hub cache that the jobs of a site read, as a path on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gemfit.core.hub_commit import hub_cache
from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.runs.hub_token import token_file

IN_SETUP = re.compile(r"\b(HF_HOME|HF_HUB_CACHE|XDG_CACHE_HOME)=")


def hub_environment(site: Site | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment`` as the jobs of ``site`` have it for the Hub: their cache, and whether they are offline.

    Without a site it is unchanged. The token stays the one of ``environment``. Raises ``UserError`` where the
    cache is not known here: set by `setup`, or in no folder that the container mounts.
    """
    if site is None:
        return dict(environment)
    in_jobs = {**environment, **site.env}
    named = next(((line, found[1]) for line in site.setup if (found := IN_SETUP.search(line))), None)
    if named is not None and "HF_HUB_CACHE" not in site.env:
        line, name = named
        raise UserError(
            f"site {site.name}: `{line}` in setup sets {name}, so the Hub cache of its jobs is not known "
            f"here; write it as env.{name}"
        )
    cache = on_this_machine(site, hub_cache(in_jobs))
    return {**in_jobs, "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(token_file(environment))}


def planning_environment(site: Site, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``hub_environment``; where that is not known, ``environment``: a plan may need nothing of the Hub."""
    try:
        return hub_environment(site, environment)
    except UserError:
        return dict(environment)


def on_this_machine(site: Site, path: Path) -> Path:
    """``path`` of the jobs of ``site``, here: what is mounted there, or the same path without a container."""
    container = site.container
    if container is None:
        return path
    for mount in container.mounts:
        source, _, target = mount.partition(":")
        target = target.partition(":")[0]  # options follow, such as `ro`
        if target and path.is_relative_to(target):
            return Path(source) / path.relative_to(target)
    # What Apptainer mounts unless its administrator says otherwise.
    if container.kind == "apptainer" and path.is_relative_to(Path.home()):
        return path
    raise UserError(
        f"site {site.name}: the Hub cache of its jobs, {path}, is in the container; "
        f"add {path.parent}:{path.parent} to container.mounts, or set env.HF_HOME to a folder that is mounted"
    )
