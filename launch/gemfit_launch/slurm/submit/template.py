"""Render a job script from a plan: a plain bash file with two regions filled in. Pure.

The template is a valid script, so that shellcheck can read it; the example lines between its marks are
replaced: directives, quoted for sbatch, and values, quoted for bash.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.slurm.sites.planned_site import site_of
from gemfit_launch.slurm.submit.container import python_on_nodes, srun_options
from gemfit_launch.slurm.submit.container_paths import paths_inside
from gemfit_launch.slurm.submit.sbatch_quoting import pack_options, render_directives, sbatch_options

Kind = Literal["train", "pack"]

PACK_LEAD_SECONDS = 60
"""From the signal to the time limit of the packing job, which ends a build within seconds."""


def render(kind: Kind, plan: Plan, run: RunDir, folder: Path) -> str:
    """The script of the training or packing job of ``run``.

    It starts in ``folder``, so that relative paths in the recipe resolve as they do here.
    """
    text = template(kind)
    text = fill(text, "directives", render_directives(options(kind, plan, run, folder)))
    return fill(text, "values", "".join(f"{line}\n" for line in values(kind, plan, run, folder)))


def template(kind: Kind) -> str:
    """The shipped template of this kind, from ``slurm/``."""
    return (files("gemfit_launch.slurm.shipped") / f"{kind}.sbatch").read_text("utf-8")


def fill(text: str, region: str, lines: str) -> str:
    """``text`` with everything between the marks of ``region`` replaced by ``lines``."""
    before, opening, rest = text.partition(f"# >>> {region}\n")
    _, closing, after = rest.partition(f"# <<< {region}\n")
    assert opening, f"the script has no mark of {region}"
    assert closing, f"the region {region} has no end"
    return before + opening + lines + closing + after


def options(kind: Kind, plan: Plan, run: RunDir, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Every sbatch option of the job, in the order of the script."""
    site, job = site_of(plan), JobFiles(run)
    yield "job-name", job.job_name(kind)
    yield "output", job.log_pattern(kind)
    yield "open-mode", "append"
    yield "chdir", str(folder)
    if kind == "pack" or not plan.node_counts:  # with it Slurm gives the smallest of a range
        yield "ntasks-per-node", "1"
    yield "nodes", str(NodeRange.of(plan)) if kind == "train" else "1"
    yield "requeue", None
    if kind == "pack":
        yield from _pack_resources(site)
        yield from pack_options(site)
        return
    yield from _resources(site)
    yield from sbatch_options(site)


def values(kind: Kind, plan: Plan, run: RunDir, folder: Path) -> Iterator[str]:
    """Variable assignments of the script; the head of ``slurm/train.sbatch`` documents them."""
    site, root = site_of(plan), JobFiles(run).root
    inside = paths_inside(plan, root, folder) if site.container is not None else []
    yield f"RUN_DIR={_word(str(root), 'the run folder')}"
    if kind == "train":
        yield f"CPUS={site.cpus_per_node or ''}"
        yield f"MAX_RESTARTS={site.max_restarts}"
    else:
        yield f"CPUS={site.pack_cpus or ''}"
    yield f"HOST_PYTHON={_array([host_python(site)])}"
    yield f"PYTHON={_array(python_on_nodes(site, inside, folder))}"
    yield f"SRUN_OPTIONS={_array(srun_options(site, inside, folder))}"
    yield from _setup(site)


def host_python(site: Site) -> str:
    """Python outside of the container: that of the site, else this interpreter."""
    return site.python if site.python is not None and site.container is None else sys.executable


def _resources(site: Site) -> Iterator[tuple[str, str | None]]:
    if site.gpus_per_node:
        kind = f"{site.gpu_kind}:" if site.gpu_kind else ""
        yield "gres", f"gpu:{kind}{site.gpus_per_node}"
    if site.cpus_per_node:
        yield "cpus-per-task", str(site.cpus_per_node)
    if site.memory is not None:
        yield "mem", site.memory
    yield "signal", f"B:USR1@{site.signal_lead_seconds}"


def _pack_resources(site: Site) -> Iterator[tuple[str, str | None]]:
    if site.pack_cpus:
        yield "cpus-per-task", str(site.pack_cpus)
    if site.pack_memory is not None:
        yield "mem", site.pack_memory
    yield "signal", f"B:USR1@{PACK_LEAD_SECONDS}"


def _setup(site: Site) -> Iterator[str]:
    """The site's lines, which the script checks one by one, and a function that exports its variables."""
    place = f"site {site.name}"
    yield f"SETUP=({' '.join(_word(line, f'{place}: setup') for line in site.setup)})"
    yield "gemfit_export_env() {"
    yield ":"
    for name, value in site.env.items():
        yield f"export {name}={_word(value, f'{place}: env.{name}')} || return"
    yield "}"


def _array(words: list[str]) -> str:
    return f"({' '.join(_word(word, 'a command') for word in words)})"


def _word(text: str, place: str) -> str:
    return shlex.quote(_without_nul(text, place))


def _without_nul(text: str, place: str) -> str:
    if "\0" in text:
        raise UserError(f"{place}: contains a NUL character, which a shell cannot hold; remove it")
    return text
