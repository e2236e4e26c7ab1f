"""Versions of Python and of packages, against our own minimum versions and against known clashes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from gemfit.core.install_hint import install_hint
from gemfit.schemas.check import CheckResult, error, ok, warning

ABOUT = "packages"
PYTHON = (3, 11)
OPTIONAL = {
    "flash-attn": "FlashAttention 2; without it attention is sdpa",
    "flash-attn-3": "FlashAttention 3 on Hopper; without it attention is sdpa",
    "kernels": "FlashAttention from the hub",
    "liger-kernel": "model.kernels: liger",
    "triton": "compiled kernels on GPUs",
    "bitsandbytes": "model.quantization: nf4, as in the recipes with -qlora",
}
"""Packages that are not needed, and what they are for."""


class Clash(NamedTuple):
    """Versions from ``first`` up to, but without, ``below`` of ``package`` that are known to go wrong."""

    package: str
    first: tuple[int, ...]
    below: tuple[int, ...]
    what: str


CLASHES = (
    Clash("transformers", (4, 50), (4, 51), "the loss of Gemma 3 is scaled by the accumulation (#37197)"),
    Clash("transformers", (4, 57), (4, 58), "ZeRO-3 cannot load Gemma 3 of 4b and more (#41762)"),
    Clash("transformers", (5, 0), (5, 8), "training Gemma 3 of 4b and more wants token_type_ids"),
    Clash("accelerate", (0,), (1, 15), "FSDP2 refuses tied embeddings under torch 2.13 (PR #4171)"),
    Clash("torch", (2, 11), (2, 13), "cuDNN's attention gives NaN on H100 (#196678)"),
)

Installed = Callable[[str], str | None]


def installed_version(package: str) -> str | None:
    """The version of an installed package; ``None`` where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def minimum_versions() -> dict[str, str]:
    """Our own requirements of what trains: package and lowest version."""
    found = {}
    for line in requires("gemfit") or ():
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)\s*;\s*extra == .train", line)
        if match:
            found[match[1]] = match[2]
    return found


def check_packages(
    minimum: Mapping[str, str], installed: Installed = installed_version, python: tuple[int, ...] = ()
) -> Iterator[CheckResult]:
    """Python, what trains, what is optional."""
    yield _python(python or sys.version_info[:3])
    versions = {package: installed(package) for package in minimum}
    if versions.get("torch") is None:
        yield ok(
            ABOUT,
            "training packages",
            f"not installed, and not needed on a login node; where training runs: {install_hint('train')}",
        )
        return
    yield from _versions(minimum, versions)
    for package, use in OPTIONAL.items():
        found = installed(package)
        yield ok(ABOUT, package, f"{found} ({use})" if found else f"not installed ({use})")


def _python(found: tuple[int, ...]) -> CheckResult:
    told = ".".join(map(str, found))
    if found < PYTHON:
        return error(ABOUT, "python", told, "use Python 3.11 or newer")
    return ok(ABOUT, "python", told)


def _versions(minimum: Mapping[str, str], versions: Mapping[str, str | None]) -> Iterator[CheckResult]:
    for package, least in minimum.items():
        found = versions[package]
        if found is None:
            yield error(ABOUT, package, "not installed", install_hint("train"))
        elif numbers(found) < numbers(least):
            clashes = "; ".join(_clashes(package, found))
            known = f": {clashes}" if clashes else ""
            yield error(
                ABOUT, package, f"{found}, older than {least}{known}", f"pip install '{package}>={least}'"
            )
        elif clashes := "; ".join(_clashes(package, found)):
            yield warning(ABOUT, package, f"{found}: {clashes}", "use a newer version")
        else:
            yield ok(ABOUT, package, found)


def _clashes(package: str, found: str) -> Iterable[str]:
    return (c.what for c in CLASHES if c.package == package and c.first <= numbers(found) < c.below)


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version such as ``2.13.0+cpu``, what follows a sign left out."""
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)  # type: ignore[index]  # matches all
