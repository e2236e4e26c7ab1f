"""The options `--site`, `--site-set` and `--nodes`."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.slurm.sites.load import load_site


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteOptions:
    """A site by name, overrides of its values, and a number of nodes or a range."""

    name: str | None = None
    settings: tuple[str, ...] = ()
    nodes: NodeRange | None = None

    def site(self, before: Site | None = None) -> Site:
        """The resolved site; without a name, that of the run ``before``."""
        if self.name is not None:
            return load_site(self.name, self.settings)
        if before is None:
            raise UserError("there is no site yet; give --site SITE (`gemfit site list`)")
        if self.settings:
            raise UserError(f"--site-set {self.settings[0]}: give --site {before.name} with it")
        return before

    @property
    def node_range(self) -> NodeRange:
        """The number of nodes of a new run; one if not given."""
        return self.nodes or NodeRange(1, 1)

    def arguments(self) -> list[str]:
        """The same options as command line arguments."""
        return to_argv({"site": self.name, "site_set": self.settings, "nodes": self.nodes})


def check_ranks(ranks: Ranks, site: Site) -> None:
    """``UserError`` for options of ranks that the site decides."""
    given = [*Ranks(nproc=ranks.nproc, gpus=ranks.gpus, device=ranks.device).arguments()]
    if given:
        raise UserError(
            f"{' '.join(given)}: a node of site {site.name} has {site.ranks} "
            f"{'GPUs' if site.gpus_per_node else 'CPU ranks'}; give --nodes N, or change it with --site-set"
        )
