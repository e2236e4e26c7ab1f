"""Preflight check of a start without a network, from the Hub cache that the jobs read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter

from gemfit.core.hub_commit import hub_cache, is_offline
from gemfit.errors import UserError
from gemfit.schemas.check import CheckResult, ok, warning
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit_launch.runs.python_module import ask_answer
from gemfit_launch.slurm.sites.hub_environment import hub_environment

ABOUT = "node start"
RESULTS: TypeAdapter[tuple[CheckResult, ...]] = TypeAdapter(tuple[CheckResult, ...])


def check_offline_start(plan: Plan, site: Site) -> Iterator[CheckResult]:
    """Whether a node could start with the network closed; nothing where model and data are local.

    What is not in the cache is an error where the site sets HF_HUB_OFFLINE, else a warning.
    """
    names = hub_names(plan.recipe)
    if not names:
        return
    try:
        environment = hub_environment(site)
    except UserError as unknown:
        yield warning(ABOUT, "hub cache", str(unknown))
        return
    if find_spec("torch") is None:
        yield ok(ABOUT, "hub cache", "not checked: the training packages are not installed here")
        return
    offline = is_offline(environment)
    results = _ask(plan, environment)
    for result in results:
        if result.state == "ok" or offline:
            yield result.model_copy(update={"do": "" if result.state == "ok" else _remedy(site)})
        else:
            yield warning(result.about, result.name, f"{result.found}; nodes download it", _remedy(site))
    if all(result.state == "ok" for result in results) and not offline:
        found = f"{hub_cache(environment)} has all of {', '.join(names)}"
        yield ok(ABOUT, "hub cache", f"{found}; nodes without a network: set env.HF_HUB_OFFLINE to '1'")


def hub_names(recipe: Recipe) -> list[str]:
    """Repositories on the Hub that ``recipe`` names."""
    model, sources = recipe.model, recipe.data.all_sources
    given = [name for name in (model.id, model.tokenizer) if name is not None]
    given += [source.source[3:] for source in sources if source.source.startswith("hf:")]
    return [name for name in dict.fromkeys(given) if not Path(name).expanduser().exists()]


def _remedy(site: Site) -> str:
    return f"run `gemfit fetch RECIPE --site {site.name}` on a machine with a network"


def _ask(plan: Plan, environment: dict[str, str]) -> tuple[CheckResult, ...]:
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="gemfit-preflight-") as stream:
        stream.write(plan.recipe.to_json())
        stream.flush()
        packed = ["--packed"] if plan.steps.rows_are == "packed" else []
        answer = ask_answer("gemfit.train.checks.offline_start", [stream.name, *packed], environment)
    return RESULTS.validate_json(answer)
