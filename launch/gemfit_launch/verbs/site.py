"""``gemfit site``: create, list and show cluster profiles."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit_launch.output.tables import console, table
from gemfit_launch.planning.write_configs import to_yaml
from gemfit_launch.slurm.cluster.cluster import ask_cluster
from gemfit_launch.slurm.cluster.generate_site import first_site
from gemfit_launch.slurm.sites.load import load_site, own, own_folder, shipped
from gemfit_launch.verbs._slurm_options import SiteName


@click.group()
def site() -> None:
    """Describe clusters.

    A site says where to train: partition, GPUs per node, limits, what runs before training. Your own
    sites are in ~/.config/gemfit/sites; one with the name of a shipped site changes that site.

    \b
    Example:
      gemfit site init
      gemfit site show gpu-cluster
    """


@site.command(name="init")
@click.argument("name", required=False)
@click.option("--partition", help="The one to describe.  [default: the cluster's, or that with most GPUs]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File, instead of your folder.")
def init(name: str | None, partition: str | None, out: Path | None) -> None:
    """Write a first site file for this cluster, from what Slurm reports.

    \b
    Example:
      gemfit site init mycluster --partition gpu
    """
    cluster = ask_cluster()
    path = out or own_folder() / f"{name or cluster.name}.yaml"
    if path.exists():
        raise UserError(f"{path}: exists already; change it, or write elsewhere with --out")
    text = first_site(cluster, partition)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    click.echo(text, nl=False)
    click.echo(f"\nwritten to {path}")


@site.command(name="list")
def list_sites() -> None:
    """List your sites, and the examples that come with gemfit.

    \b
    Example:
      gemfit site list
    """
    rows = [(name, "yours", str(path)) for name, path in own().items()]
    rows += [(name, "example", str(path)) for name, path in shipped().items() if name not in own()]
    console().print(table(["site", "whose", "file"], rows))


@site.command(name="show")
@click.argument("name", type=SiteName())
@click.option("--site-set", "settings", metavar="KEY=VALUE", multiple=True, help="Change one value.")
def show(name: str, settings: tuple[str, ...]) -> None:
    """Print a site with every value resolved."""
    click.echo(to_yaml(load_site(name, settings).model_dump(mode="json")), nl=False)
