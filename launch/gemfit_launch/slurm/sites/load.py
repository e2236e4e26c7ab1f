"""Load sites: a shipped example, overridden by the user's own file, then by ``--site-set``.

A site is a name or the path of a YAML file, which may begin with ``extends: NAME``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from gemfit.config.overrides import build, with_settings
from gemfit.config.yaml_source import KeyPath, YamlDocument, load, load_extended
from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.site import Site
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
    _check_leading_zeros(document, document.data, ())
    return expand(build(Site, document))


def site_document(name: str, settings: Iterable[str] = ()) -> YamlDocument:
    """The merged YAML; every value keeps the place where it was written."""
    path = Path(name).expanduser()
    if path.is_file():
        document, called = load_extended(path, _find), path.stem
    else:
        document, called = _layers(name), name
    called_so = YamlDocument({"name": called}, {("name",): "the name of the file"}, document.origin)
    return with_settings(Site, document.over(called_so), settings, option="--site-set")


def _check_leading_zeros(document: YamlDocument, value: object, path: KeyPath) -> None:
    """``UserError`` for a number such as `0123`: as text, such as an account, it would become `123`."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        _check_leading_zeros(document, inner, (*path, key))
    if not isinstance(value, int):
        return
    file, _, line = document.place(path).rpartition(":")
    if line.isdigit() and Path(file).is_file():
        written = Path(file).read_text("utf-8-sig").splitlines()[int(line) - 1]
        if re.search(rf":\s*0+{value}\b", written) and value:
            raise UserError(f"{file}:{line}: {path[-1]}: a number begins with 0; write it in quotes")


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
