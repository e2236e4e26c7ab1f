"""Expand `~` in the paths of a site, and refuse variables where no shell would replace them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gemfit.errors import UserError
from gemfit.schemas.site import Container, Site

VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{|\()")


def expand(site: Site) -> Site:
    """``site`` with `~` expanded in `python`, `env` and `container`; a `$NAME` in them is a ``UserError``.

    `setup` is left to bash.
    """
    mistakes = [_explain(site, key, text) for key, text in _literals(site) if VARIABLE.search(text)]
    if mistakes:
        raise UserError("\n".join(mistakes))
    python = _home(site.python) if site.python is not None else None
    env = {name: _each(value) for name, value in site.env.items()}
    container = _container(site.container) if site.container is not None else None
    return site.model_copy(update={"python": python, "env": env, "container": container})


def _container(container: Container) -> Container:
    mounts = tuple(_each(mount) for mount in container.mounts)
    return container.model_copy(update={"image": _home(container.image), "mounts": mounts})


def _literals(site: Site) -> Iterator[tuple[str, str]]:
    """Keys and values that reach the job as they are written."""
    yield "python", site.python or ""
    for name, value in site.env.items():
        yield f"env.{name}", value
    for name, value in site.extra.items():
        yield f"extra.{name}", value
    if site.container is not None:
        yield "container.image", site.container.image
        yield from (("container.mounts", mount) for mount in site.container.mounts)


def _explain(site: Site, key: str, text: str) -> str:
    found = f"site {site.name}: {key}: {text} would not be replaced, because values are literal"
    name = key.removeprefix("env.")
    if name != key:
        return f'{found}; write the line `export {name}="{text}"` in `setup`'
    return f"{found}; write what it stands for"


def _each(text: str) -> str:
    """Expand each path of a list with colons, as bash does in an assignment."""
    return ":".join(map(_home, text.split(":")))


def _home(text: str) -> str:
    if text != "~" and not text.startswith("~/"):
        return text
    return str(Path.home()) + text[1:]
