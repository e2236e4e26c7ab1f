"""The site that a plan was made for."""

from __future__ import annotations

from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site


def site_of(plan: Plan) -> Site:
    """The site of a plan that is made for Slurm; a ``UserError`` for that of a local run."""
    if plan.site is None:
        raise UserError("the plan has no site, so it does not run under Slurm; submit the run with --site")
    return plan.site
