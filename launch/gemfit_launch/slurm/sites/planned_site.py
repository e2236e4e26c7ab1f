"""The site that a plan was made for."""

from __future__ import annotations

from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site


def site_of(plan: Plan) -> Site:
    """The site of a plan that is made for Slurm."""
    assert plan.site is not None, "a plan without a site does not run under Slurm"
    return plan.site
