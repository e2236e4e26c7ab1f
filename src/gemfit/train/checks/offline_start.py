"""``python -m gemfit.train.checks.offline_start RECIPE.json``: whether a node could start offline.

Does what a node does before it reads weights: model on the meta device, headers of all safetensors matched
with its parameters, tokenizer, and the first row of each dataset. Attempts to connect are refused meanwhile.
Prints the results as JSON; exit status 0 whatever is found.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gemfit.core.marked_answer import write_answer
from gemfit.errors import ExitCode, UserError
from gemfit.schemas.check import CheckResult, error, ok
from gemfit.schemas.recipe import Recipe

ABOUT = "node start"
SAMPLE = "Hello, who are you?\nÄ 漢字 123"


def main(argv: list[str] | None = None) -> int:
    """Run the checks and print them."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.train.checks.offline_start")
    parser.add_argument("recipe", type=Path, help="a resolved recipe, as JSON")
    parser.add_argument(
        "--packed", action="store_true", help="the data is packed, so its sources are not read"
    )
    arguments = parser.parse_args(argv)
    # Before huggingface_hub is imported, which reads it once.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    close_network()
    try:
        recipe = Recipe.read(arguments.recipe)
    except UserError as fault:
        sys.stderr.write(f"error: {fault}\n")
        return ExitCode.USER_ERROR
    results = list(check_start(recipe, packed=arguments.packed))
    write_answer(json.dumps([result.model_dump() for result in results]))
    return ExitCode.DONE


def close_network() -> None:
    """Refuse every connection of this process from now on, except those within this machine."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and arguments[0].family not in (socket.AF_UNIX, socket.AF_NETLINK):
            raise OSError(errno.ENETUNREACH, f"the network is closed for this check: {arguments[1]}")
        if event == "socket.getaddrinfo":
            raise OSError(errno.ENETUNREACH, f"the network is closed for this check: {arguments[0]}")

    sys.addaudithook(refuse)


def check_start(recipe: Recipe, *, packed: bool) -> Iterator[CheckResult]:
    """A result each for weights, tokenizer and datasets, as far as ``recipe`` names any."""
    if recipe.model.id is not None:
        yield _checked("weights", lambda: _weights(recipe))
    if recipe.model.tokenizer_source is not None:
        yield _checked("tokenizer", lambda: _tokenizer(recipe))
    if not packed and any(source.source.startswith("hf:") for source in recipe.data.all_sources):
        yield _checked("data", lambda: _datasets(recipe))


def _checked(name: str, look: Callable[[], str]) -> CheckResult:
    try:
        return ok(ABOUT, name, look())
    except (UserError, OSError, ValueError) as fault:
        return error(ABOUT, name, str(fault).split("\n", 1)[0])


def _weights(recipe: Recipe) -> str:
    """Read the configuration and all headers; no weight is read."""
    from gemfit.train.model.build import open_base  # noqa: PLC0415  (after the environment)

    # The attention of a GPU may not be installed here, and has no files.
    model, weights = open_base(recipe.model.model_copy(update={"attention": "eager"}))
    if weights is None:
        return f"{recipe.model.id}: read from GGUF"
    files = {entry.file for entry in weights.entries.values()}
    size = sum(file.stat().st_size for file in files)
    return (
        f"{recipe.model.id}: headers of {len(files)} safetensors files ({size / 1e9:,.2f} GB) hold all "
        f"{len(weights.entries)} weights of {model.config.architectures or type(model).__name__}"
    )


def _tokenizer(recipe: Recipe) -> str:
    from gemfit.data.render.renderer import prompt_ids  # noqa: PLC0415  (after the environment)
    from gemfit.data.tokenize.tokenizer import load_tokenizer  # noqa: PLC0415  (after the environment)

    assert recipe.model.tokenizer_source is not None, "checked before"
    name, revision = recipe.model.tokenizer_source
    tokenizer = load_tokenizer(name, revision)
    ids = prompt_ids([{"role": "user", "content": SAMPLE}], tokenizer, recipe.data.format, recipe.data.eos)
    return f"{name}: encodes a message in {len(ids)} tokens"


def _datasets(recipe: Recipe) -> str:
    """Read the first row of each dataset, from the cache or a folder."""
    from gemfit.data.jsonl.hub_stream import hub_lines  # noqa: PLC0415  (after the environment)
    from gemfit.schemas.pack_job import job_sources  # noqa: PLC0415  (with the others)

    found = []
    for source, _ in job_sources(recipe.data):
        if source.hub is not None:
            next(hub_lines(source))
            found.append(source.name)
    return f"{', '.join(found)}: first rows read"


if __name__ == "__main__":
    sys.exit(main())
