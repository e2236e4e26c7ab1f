"""Options of Slurm verbs; ``--site``, ``--site-set`` and ``--nodes`` are passed as one value."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from click.shell_completion import CompletionItem

from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.slurm.sites.load import own, shipped
from gemfit_launch.slurm.submit.site_options import SiteOptions

Verb = Callable[..., None]


class Nodes(click.ParamType[NodeRange]):
    """A number of nodes, or a range."""

    name = "nodes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NodeRange:
        if isinstance(value, NodeRange):
            return value
        try:
            return NodeRange.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


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
            *, site: str | None, site_settings: tuple[str, ...], nodes: NodeRange | None = None, **rest: Any
        ) -> None:
            verb(site_options=SiteOptions(name=site, settings=site_settings, nodes=nodes), **rest)

        nodes_option = click.option(
            "--nodes",
            type=Nodes(),
            metavar="N|MIN-MAX",
            help="Number of nodes; of a range, as many as Slurm has at each start.",
        )
        decorated = click.option(
            "--site-set",
            "site_settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a site value, such as partition=gpu; repeatable.",
        )(nodes_option(collect) if with_nodes else collect)
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
