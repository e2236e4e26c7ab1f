"""Base model of a run and its licence, from recorded sources only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from gemfit.core.json_file import read_json_object
from gemfit.export.user_statements import UserStatements
from gemfit.schemas.plan import Plan
from gemfit.summary.markdown import code, plain, printable

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
"""The folder of a model in the cache of huggingface_hub."""
GEMMA = re.compile(r"(google/)?gemma[ \-_]?\d", re.IGNORECASE)
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


@dataclass(frozen=True, slots=True)
class BaseModelSource:
    """Name, revision and licence of the base model."""

    name: str
    """For the text of the card."""
    hub_id: str | None
    """Its name on the Hugging Face Hub; ``None`` where that is unknown, and without a base model."""
    revision: str | None
    license: str | None
    """Identifier on the Hub; ``None`` where no source states it."""
    license_because: str
    is_scratch: bool = False


def find_base_model(plan: Plan, user: UserStatements) -> BaseModelSource:
    """From the recipe, the folder of the model, and the user's statements."""
    model = plan.recipe.model
    if model.id is None:
        because = "as stated by the publisher" if user.license else "none was stated"
        return BaseModelSource("random weights", None, None, user.license, because, is_scratch=True)
    folder = Path(model.id).expanduser()
    is_folder = folder.is_dir() or not HUB_NAME.fullmatch(model.id)
    config = _config(folder) if is_folder else {}
    called = str(config.get("_name_or_path") or config.get("_model_name_or_path") or "")
    hub_id, revision = _on_hub(model.id, None if is_folder else model.revision)
    if user.base_model not in (None, hub_id):
        hub_id, revision = user.base_model, None
    if hub_id is None and HUB_NAME.fullmatch(called):
        hub_id = called
    local = (
        f"{plain(called)} (a local folder)" if called else f"the local folder {code(printable(folder.name))}"
    )
    name = plain(hub_id) if hub_id else local
    license_id, because = _license(hub_id, called, folder if is_folder else None, user)
    return BaseModelSource(name, hub_id, revision, license_id, because)


def _on_hub(name: str, revision: str | None) -> tuple[str | None, str | None]:
    """Name and revision on the Hub; a folder has them where it is one of huggingface_hub's cache."""
    if revision is not None:
        return name, revision
    cached = CACHED.search(name)
    return (f"{cached[1]}/{cached[2]}", cached[3]) if cached else (None, None)


def _license(
    hub_id: str | None, called: str, folder: Path | None, user: UserStatements
) -> tuple[str | None, str]:
    if user.license:
        return user.license, "as stated by the publisher"
    if folder is not None and (own := _readme_license(folder / "README.md")):
        return own, "as the README of the base model's folder says"
    if hub_id is not None and hub_id.startswith("google/gemma"):
        return "gemma", f"the base model is {hub_id}"
    if GEMMA.match(called):
        return "gemma", f"the configuration of the base model calls it {called}"
    return None, "no file of the base model states it"


def _readme_license(path: Path) -> str | None:
    if not path.is_file():
        return None
    found = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    return str(found) if found else None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json_object(path) if path.is_file() else {}
