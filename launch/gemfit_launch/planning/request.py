"""A recipe and its overrides from the command line, and the recipe that results.

The order of precedence: the recipe and what it extends, then ``--set`` from left to right, then the
options with a name of their own. `--set strategy.KEY` refines the strategy that `--strategy` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemfit.config.overrides import build, with_settings
from gemfit.config.yaml_source import YamlDocument
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import check_name
from gemfit.schemas.pin_revisions import pin_revisions
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import strategy_from_name
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.recipes import load_recipe_document

SEQUENCE_PARALLEL = "sequence_parallel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A recipe by name, and its overrides; without a name only the overrides."""

    name: str
    settings: tuple[str, ...] = ()
    data: str | None = None
    strategy: str | None = None
    offload: bool = False
    seed: int | None = None

    @property
    def name_for_folder(self) -> str:
        """Such as ``gemma3-1b-reference``; of a file, its name without the suffix."""
        path = Path(self.name)
        return path.stem if path.suffix in (".yaml", ".yml") else self.name.replace("/", "-")

    def document(self) -> YamlDocument:
        """The YAML that results, with the origin of every value."""
        return self.over(load_recipe_document(self.name))

    def over(self, base: YamlDocument) -> YamlDocument:
        """``base`` with the overrides; the name is ignored."""
        names_strategy = self.strategy is not None or self.offload
        later = [one for one in self.settings if names_strategy and one.startswith("strategy.")]
        document = with_settings(Recipe, base, [one for one in self.settings if one not in later])
        for given in (self.data or "", *self.settings):
            check_name(given)
        if self.data is not None:
            document = _over(document, "--data", {"data": {"source": self.data, "sources": []}})
        if self.seed is not None:
            document = _over(document, "--seed", {"seed": self.seed})
        if names_strategy:
            place = f"--strategy {self.strategy}" if self.strategy else "--offload"
            document = _over(document, place, {"strategy": self._strategy(document, place)})
        return with_settings(Recipe, document, later)

    def recipe(self) -> Recipe:
        """The recipe that results; all errors in it are one ``UserError``."""
        return build(Recipe, self.document())

    def pinned_recipe(self, environment: Mapping[str, str] = os.environ) -> Recipe:
        """``recipe`` with commits in place of branches: what plans and packs are made of.

        ``environment`` is that of the processes that will read model and data.
        """
        return pin_revisions(self.recipe(), environment)

    def arguments(self) -> list[str]:
        """The same request as command line arguments."""
        options = {
            "set": self.settings,
            "data": self.data,
            "strategy": self.strategy,
            "seed": self.seed,
            "offload": self.offload,
        }
        return [*([self.name] if self.name else []), *to_argv(options)]

    def _strategy(self, document: YamlDocument, place: str) -> dict[str, Any]:
        name = self.strategy or _short_name(document.data.get("strategy", "ddp"))
        try:
            strategy = strategy_from_name(name, offload=self.offload)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        # It is a property of the ranks: another engine keeps it.
        degree = _sequence_parallel(document.data.get("strategy"))
        return strategy if degree is None or name == "single" else strategy | {SEQUENCE_PARALLEL: degree}


def _sequence_parallel(written: Any) -> Any:
    """The degree that a recipe writes into its strategy; ``None`` where it writes none."""
    return written.get(SEQUENCE_PARALLEL) if isinstance(written, dict) else None


def _short_name(written: Any) -> str:
    """The name such as ``zero3`` of a strategy as a recipe writes it."""
    if not isinstance(written, dict):
        return str(written)
    kind = str(written.get("kind"))
    return f"zero{written.get('stage', 2)}" if kind == "deepspeed" else kind


def _over(document: YamlDocument, place: str, data: dict[str, Any]) -> YamlDocument:
    (key, value), *_ = data.items()
    places: dict[tuple[str | int, ...], str] = {(key,): place}
    if isinstance(value, dict):
        places |= {(key, inner): place for inner in value}
    return YamlDocument(data, places, place).over(document)
