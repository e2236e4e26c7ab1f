"""Load sites: a shipped example, overridden by the user's own file, then by ``--site-set``.

A site is a name or the path of a YAML file, which may begin with ``extends: NAME``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from gemfit.config.overrides import build, with_settings
from gemfit.config.yaml_source import KeyPath, RewrittenInt, YamlDocument, load, load_extended
from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.site import Site
from gemfit_launch.slurm.durations import asked_limit
from gemfit_launch.slurm.sites.expand import expand

SUFFIXES = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Name and file of every site that comes with gemfit."""
    return _named(Path(str(files("gemfit_launch.slurm.shipped"))) / "sites")


def own() -> dict[str, Path]:
    """Name and file of every site in the user's folder."""
    return _named(own_folder())


def own_folder() -> Path:
    """``$XDG_CONFIG_HOME/gemfit/sites``, else ``~/.config/gemfit/sites``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gemfit" / "sites"


def load_site(name: str, settings: Iterable[str] = ()) -> Site:
    """The resolved site; all errors in it are one ``UserError``."""
    document = site_document(name, settings)
    site = build(Site, document)
    _check_rewritten(document, document.data, site.model_dump(), ())
    if site.time is not None:
        try:
            asked_limit(site.time)
        except UserError as error:
            raise UserError(f"{document.place(('time',))}: time: {error}") from None
    return expand(site)


def site_document(name: str, settings: Iterable[str] = ()) -> YamlDocument:
    """The merged YAML; every value keeps the place where it was written."""
    path = Path(name).expanduser()
    if path.is_file():
        document, called = load_extended(path, _find), path.stem
    else:
        document, called = _layers(name), name
    called_so = YamlDocument({"name": called}, {("name",): "the name of the file"}, document.origin)
    return with_settings(Site, document.over(called_so), settings, option="--site-set")


def _check_rewritten(document: YamlDocument, written: Any, built: Any, path: KeyPath) -> None:
    """``UserError`` for a number such as `0123` or `1_000` as text: an account would become `123`.

    ``written`` and ``built`` are the value at ``path`` in the document and in the site. A number that begins
    with 0 is refused in any place: other programs take it for octal.
    """
    if isinstance(written, dict) and isinstance(built, dict):
        for key, value in written.items():
            _check_rewritten(document, value, built.get(key), (*path, key))
    elif isinstance(written, list) and isinstance(built, tuple):
        for index, (value, made) in enumerate(zip(written, built, strict=True)):
            _check_rewritten(document, value, made, (*path, index))
    elif isinstance(written, RewrittenInt) and (isinstance(built, str) or written.begins_with_zero):
        why = (
            "begins with 0" if written.begins_with_zero else f"is written in another way than {int(written)}"
        )
        place = f"{document.place(path)}: {'.'.join(map(str, path))}"
        raise UserError(f"{place}: a number that {why}; write it in quotes")


def _layers(name: str) -> YamlDocument:
    """The user's file over a shipped one of the same name; one of the two may be missing."""
    paths = [layer[name] for layer in (shipped(), own()) if name in layer]
    if not paths:
        raise UserError(_unknown(name))
    document = load(paths[0]) if paths[0] in shipped().values() else load_extended(paths[0], _find)
    return load_extended(paths[1], _find).over(document) if paths[1:] else document


def _find(name: str) -> Path:
    """The file that ``extends: NAME`` of a site stands for."""
    for layer in (shipped(), own()):
        if name in layer:
            return layer[name]
    raise UserError(_unknown(name))


def _unknown(name: str) -> str:
    if name.endswith(SUFFIXES) or "/" in name:
        return f"{name}: there is no such file"
    known = {**shipped(), **own()}
    hint = did_you_mean(name, known) or f"; sites: {', '.join(known)}"
    return f"{name}: there is no such site{hint}; make one for this cluster with `gemfit site init`"


def _named(folder: Path) -> dict[str, Path]:
    found = [path for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES]
    return {path.stem: path for path in found}
