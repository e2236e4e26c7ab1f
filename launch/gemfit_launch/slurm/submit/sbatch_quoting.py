"""``#SBATCH`` lines, quoted for sbatch's parser, which is not a shell. Pure.

That parser reads a backslash as an escape even inside single quotes, splits at blanks and drops all
after a ``#``. Inside double quotes only ``\\`` and ``"`` are special.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.site import Site

OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

OWNED = {
    "job-name": "--run",
    "nodes": "--nodes",
    "ntasks": "the launcher, one task per node",
    "ntasks-per-core": "the launcher, one task per node",
    "ntasks-per-gpu": "the launcher, one task per node",
    "ntasks-per-node": "the launcher, one task per node",
    "ntasks-per-socket": "the launcher, one task per node",
    "partition": "`partition`",
    "account": "`account`",
    "qos": "`qos`",
    "constraint": "`constraint`",
    "reservation": "`reservation`",
    "gres": "`gpus_per_node` and `gpu_kind`",
    "gpus": "`gpus_per_node` and `gpu_kind`",
    "gpus-per-node": "`gpus_per_node` and `gpu_kind`",
    "gpus-per-socket": "`gpus_per_node` and `gpu_kind`",
    "gpus-per-task": "`gpus_per_node` and `gpu_kind`",
    "cpus-per-task": "`cpus_per_node`",
    "mem": "`memory`",
    "time": "`time`",
    "time-min": "`time`",
    "signal": "`signal_lead_seconds`",
    "cluster": "the login node; submit on one of that cluster",
    "clusters": "the login node; submit on one of that cluster",
    "cluster-constraint": "the login node; submit on one of that cluster",
    "container": "`container`",
    "container-id": "`container`",
    "uid": "the user who submits",
    "gid": "the user who submits",
    "no-kill": "the launcher, whose ranks need all nodes",
    "requeue": "the launcher, which requeues",
    "no-requeue": "the launcher, which requeues",
    "open-mode": "the launcher, which appends",
    "output": "the run folder",
    "error": "the run folder",
    "chdir": "the run folder",
    "dependency": "--after",
    "kill-on-invalid-dep": "--after",
    "array": "--sweep",
    "export": "the launcher, which removes what would change the job",
    "export-file": "the launcher, which removes what would change the job",
    "wrap": "the launcher",
    "parsable": "the launcher",
    "test-only": "--dry-run",
    "wait": "the launcher",
    "help": "the launcher",
    "usage": "the launcher",
    "version": "the launcher",
}
"""Options that the launcher writes itself, and what decides each of them."""

Options = Iterable[tuple[str, str | None]]


def render_directives(options: Options) -> str:
    """One ``#SBATCH`` line for each option; ``None`` stands for an option without a value."""
    return "".join(f"#SBATCH {directive(name, value)}\n" for name, value in options)


def directive(name: str, value: str | None) -> str:
    """``--name`` or ``--name="value"``, quoted for sbatch; unprintable values are a ``UserError``."""
    if not OPTION.fullmatch(name):
        raise UserError(f"{name!r} is not the long name of an sbatch option; write it like `mail-type`")
    return f"--{name}" if value is None else f"--{name}={quoted(value, f'--{name}')}"


def quoted(value: str, place: str) -> str:
    """``value`` in double quotes; ``place`` names it in errors."""
    if not value.isprintable():
        raise UserError(f"{place}: {value!r} contains a character that a job script cannot hold; remove it")
    if not value:
        raise UserError(f"{place}: is empty; leave it out, or give it a value")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def sbatch_options(site: Site) -> Options:
    """Options of the training job: those of ``site``, and its `extra`."""
    named = ("partition", "account", "qos", "constraint", "reservation", "time")
    return [*_given(site, named), *_extra(site)]


def pack_options(site: Site) -> Options:
    """Options of the packing job; options that select GPU nodes are dropped with another partition."""
    if site.pack_partition is None:
        return sbatch_options(site)
    return [("partition", site.pack_partition), *_given(site, ("account", "time")), *_extra(site)]


def _given(site: Site, names: Iterable[str]) -> list[tuple[str, str | None]]:
    return [(name, value) for name in names if (value := getattr(site, name)) is not None]


def _extra(site: Site) -> list[tuple[str, str | None]]:
    for name in site.extra:
        check_option(name, site)
    # An option such as `exclusive` has no value.
    return [(name, value or None) for name, value in site.extra.items()]


def check_option(name: str, site: Site) -> None:
    """``UserError`` for an option in ``extra`` that the launcher writes, or with an invalid name."""
    place = f"site {site.name}: extra.{name}"
    if name in OWNED:
        raise UserError(f"{place}: {name} is decided by {OWNED[name]}; remove it from `extra`")
    # sbatch takes an abbreviation for the option itself.
    if whole := [owned for owned in OWNED if owned.startswith(name) and len(name) > 1]:
        raise UserError(f"{place}: sbatch would read {name} as {whole[0]}; write the whole name of an option")
    if not OPTION.fullmatch(name):
        hint = did_you_mean(name.lstrip("-").replace("_", "-").lower(), [*OWNED, "mail-type", "mail-user"])
        raise UserError(f"{place}: write the long name of an sbatch option, without dashes{hint}")
