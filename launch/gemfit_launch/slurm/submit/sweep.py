"""One request as several: every combination of the values that ``--sweep KEY=A,B`` names. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemfit.errors import UserError
from gemfit_launch.planning.request import Request


@dataclass(frozen=True, slots=True)
class Variant:
    """One combination, and what tells its run folder from the others'."""

    suffix: str
    """Such as `-seed=1-learning_rate=1e-4`; empty without a sweep."""
    request: Request


def variants(request: Request, sweeps: Sequence[str]) -> list[Variant]:
    """Every combination, the last sweep varying fastest; two that train the same are a ``UserError``."""
    axes = [_settings(sweep) for sweep in sweeps]
    made = [
        Variant(
            suffix="".join(f"-{_short(setting)}" for setting in settings),
            request=replace(request, settings=(*request.settings, *settings)),
        )
        for settings in itertools.product(*axes)
    ]
    recipes = [variant.request.recipe().digest for variant in made]
    for (one, recipe), (other, same) in itertools.combinations(zip(made, recipes, strict=True), 2):
        if one.suffix == other.suffix or recipe == same:
            raise UserError(
                f"--sweep: {one.suffix[1:]} and {other.suffix[1:]} would train the same; "
                "leave one of them out, or the option that overrides the value"
            )
    return made


def _settings(sweep: str) -> list[str]:
    key, equals, text = sweep.partition("=")
    # A comma inside [0.9,0.95] belongs to the value.
    values = [value for value in re.split(r",(?![^\[]*\])", text) if value]
    if not key or not equals or not values:
        raise UserError(f"--sweep {sweep}: write it as key=value,value, for example --sweep seed=1,2,3")
    return [f"{key}={value}" for value in values]


def _short(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9.+-]+', '_', value)}"
