"""The options `--site`, `--site-set` and `--nodes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.slurm.records.job_files import Submission
from gemfit_launch.slurm.sites.load import load_site


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteOptions:
    """A site by name, overrides of its values, and a number of nodes or a range."""

    name: str | None = None
    settings: tuple[str, ...] = ()
    nodes: NodeRange | None = None

    def site(self) -> Site:
        """The resolved site, as its file is now."""
        if self.name is None:
            raise UserError("there is no site yet; give --site SITE (`gemfit site list`)")
        return load_site(self.name, self.settings)

    def after(self, submission: Submission | None) -> SiteOptions:
        """These options for another job of a run: without a site, that of ``submission``, further changed."""
        if self.name is not None or submission is None:
            return self
        settings = (*submission.site_settings, *self.settings)
        return SiteOptions(name=submission.site, settings=settings, nodes=self.nodes)

    @property
    def lasting_name(self) -> str:
        """The name of the site; the path of a file is absolute, for use in another folder."""
        assert self.name is not None, "a job has a site"
        path = Path(self.name).expanduser()
        return str(path.resolve()) if path.is_file() else self.name

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
