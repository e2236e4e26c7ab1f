"""Options of Slurm verbs; ``--site``, ``--site-set`` and ``--nodes`` are passed as one value."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from click.shell_completion import CompletionItem

from gemfit_launch.slurm.sites.load import own, shipped
from gemfit_launch.slurm.submit.site_options import SiteOptions

Verb = Callable[..., None]


class SiteName(click.ParamType[str]):
    """The name of a site, or the path of a YAML file."""

    name = "site"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in {**shipped(), **own()} if name.startswith(incomplete)]
        return [*names, CompletionItem(incomplete, type="file")]


def slurm_options(*, site_required: bool, with_nodes: bool = True) -> Callable[[Verb], Verb]:
    """``--site``, ``--site-set`` and ``--nodes``, as one ``site_options: SiteOptions``."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def collect(
            *, site: str | None, site_settings: tuple[str, ...], nodes: int | None = None, **rest: Any
        ) -> None:
            verb(site_options=SiteOptions(name=site, settings=site_settings, nodes=nodes), **rest)

        decorated = collect
        if with_nodes:
            nodes_option = click.option("--nodes", type=click.IntRange(min=1), help="Number of nodes.")
            decorated = nodes_option(decorated)
        decorated = click.option(
            "--site-set",
            "site_settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a site value, such as partition=gpu; repeatable.",
        )(decorated)
        site_option = click.option(
            "--site",
            type=SiteName(),
            required=site_required,
            help="Cluster: a name (`gemfit site list`) or a file.",
        )
        return site_option(decorated)

    return decorate


after_option = click.option(
    "--after", type=click.IntRange(min=1), metavar="JOB", help="Start after this job has succeeded."
)
