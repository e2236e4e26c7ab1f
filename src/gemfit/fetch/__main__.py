"""``python -m gemfit.fetch RECIPE.json``: what a recipe needs of the Hub, into ``HF_HUB_CACHE``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode
from gemfit.fetch.partial_files import ending_at_once
from gemfit.schemas.recipe import Recipe


def main(argv: list[str] | None = None) -> int:
    """Download, and print a line for each repository."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.fetch")
    parser.add_argument("recipe", type=Path, help="a recipe, as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gemfit").setLevel(logging.INFO)
    # Its own lines contain signed URLs; `retried` logs the errors.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # huggingface_hub reads its environment when it is imported.
    from gemfit.hub.retry import Unreachable  # noqa: PLC0415

    def action() -> ExitCode:
        try:
            recipe = Recipe.read(arguments.recipe)
            with ending_at_once():
                _fetch(recipe, as_json=arguments.json)
        except Unreachable as error:
            sys.stderr.write(f"error: the Hub does not answer: {error}; fetch again: finished files stay\n")
            return ExitCode.STOPPED
        return ExitCode.DONE

    return run_main(action)


def _fetch(recipe: Recipe, *, as_json: bool) -> None:
    from gemfit.fetch.download import Fetched, fetch_repository  # noqa: PLC0415  (after the environment)
    from gemfit.fetch.needed import needed_repositories  # noqa: PLC0415  (after the environment)
    from gemfit.hub.timeouts import set_timeouts  # noqa: PLC0415  (after the environment)

    set_timeouts()
    done: list[Fetched] = []
    for repository in needed_repositories(recipe):
        fetched = fetch_repository(repository)
        done.append(fetched)
        if not as_json:
            _print(
                f"{fetched.kind} {fetched.name} at {fetched.commit}: {fetched.files} files, "
                f"{fetched.bytes / 1e9:,.2f} GB, {fetched.downloaded_bytes / 1e9:,.2f} GB of them new, "
                f"verified: {fetched.folder}"
            )
    if as_json:
        _print(json.dumps([fetched.model_dump(mode="json") for fetched in done], indent=2))
    elif not done:
        _print("nothing to fetch: model and data are local")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
