"""Command prefix of Python on the nodes: without a container, Apptainer or pyxis. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gemfit.errors import UserError
from gemfit.schemas.site import Container, Site


def python_on_nodes(site: Site, folders: Sequence[Path], workdir: Path) -> list[str]:
    """argv prefix of Python on the nodes; Apptainer mounts ``folders`` under the same paths.

    It starts in ``workdir``, if that is mounted: relative paths in the recipe refer to it.
    """
    container = site.container
    if container is None:
        return [site.python or sys.executable]
    python = site.python or "python3"
    if container.kind == "pyxis":
        return [python]
    gpus = ["--nv"] if site.gpus_per_node else []
    binds = [part for mount in mounts(container, folders) for part in ("--bind", mount)]
    start = ["--pwd", str(workdir)] if _is_mounted(workdir, folders) else []
    return ["apptainer", "exec", *gpus, *binds, *start, container.image, python]


def srun_options(site: Site, folders: Sequence[Path], workdir: Path) -> list[str]:
    """Container options of ``srun`` under pyxis; empty otherwise."""
    container = site.container
    if container is None or container.kind != "pyxis":
        return []
    return [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(mounts(container, folders))}",
        *([f"--container-workdir={workdir}"] if _is_mounted(workdir, folders) else []),
    ]


def mounts(container: Container, folders: Sequence[Path]) -> list[str]:
    """``SOURCE:TARGET`` of every mount of the container."""
    for folder in folders:
        if any(character in str(folder) for character in ",:"):
            raise UserError(
                f"{folder}: a path with a comma or a colon cannot be mounted into a container; choose another"
            )
    return [*(f"{folder}:{folder}" for folder in folders), *container.mounts]


def _is_mounted(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
