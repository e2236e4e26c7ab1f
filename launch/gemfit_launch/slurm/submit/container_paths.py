"""Paths of a run that training or packing reads inside a container: what is mounted, and what is not."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from gemfit.schemas.check import CheckResult, warning
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site

IMAGE_FOLDERS = {
    Path("/", name)
    for name in ("", "bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "sbin", "sys")
} | {Path("/run"), Path("/usr"), Path("/var")}
"""A mount there would hide the files of the image."""


def paths_inside(plan: Plan, root: Path, workdir: Path) -> list[Path]:
    """Run folder and packs; working folder, local data and models that none of the others contains."""
    named = [Path(os.path.normpath(path)) for path in (workdir, *_inputs(plan.recipe, workdir))]
    # A link leads out of its folder, so its target is mounted as well.
    wanted = [path for name in named for path in dict.fromkeys((name, name.resolve()))]
    found = [root, Path(plan.pack.folder).parent]
    for path in wanted:
        if path not in IMAGE_FOLDERS and not any(path.is_relative_to(folder) for folder in found):
            found.append(path)
    return found


def check_mounts(site: Site, plan: Plan, root: Path, workdir: Path) -> Iterator[CheckResult]:
    """A warning for each path in the site's `env` that exists here and that the container does not have."""
    container = site.container
    if container is None:
        return
    targets = [Path(mount.split(":")[1]) for mount in container.mounts if ":" in mount]
    covered = [*paths_inside(plan, root, workdir), *targets]
    if container.kind == "apptainer":  # mounted unless its administrator says otherwise
        covered += [Path.home(), Path("/tmp")]
    for name, value in site.env.items():
        path = Path(value)
        if (
            path.is_absolute()
            and path.exists()
            and not any(path.is_relative_to(folder) for folder in covered)
        ):
            yield warning(
                "machine",
                "mounts",
                f"env.{name}: {value} is not mounted into the container",
                f"add {value}:{value} to container.mounts, unless the image has it",
            )


def _inputs(recipe: Recipe, workdir: Path) -> Iterator[Path]:
    """Folders of local data, and local folders of model and tokenizer."""
    for source in recipe.data.all_sources:
        if not source.source.startswith("hf:"):
            yield _folder_of(workdir / Path(source.source).expanduser())
    for name in (recipe.model.id, recipe.model.tokenizer):
        if name is not None and (path := workdir / Path(name).expanduser()).is_dir():
            yield path


def _folder_of(source: Path) -> Path:
    """What to mount for a file, folder or glob of conversations."""
    if source.is_dir():
        return source
    if glob.has_magic(str(source)) and not source.exists():
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), source.parts)
        return Path(*fixed)
    return source if source.parent in IMAGE_FOLDERS else source.parent
