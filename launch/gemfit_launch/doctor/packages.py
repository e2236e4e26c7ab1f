"""Checks of Python and package versions: minimum versions and known incompatibilities."""

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
    "vaderSentiment": "gemfit audit",
    "rapidfuzz": "gemfit audit",
}
"""Optional packages, and what they are for."""


class Incompatibility(NamedTuple):
    """Versions from ``first`` up to, but without, ``below`` of ``package`` that are known to fail."""

    package: str
    first: tuple[int, ...]
    below: tuple[int, ...]
    what: str


INCOMPATIBILITIES = (
    Incompatibility(
        "transformers", (4, 50), (4, 51), "the loss of Gemma 3 is scaled by the accumulation (#37197)"
    ),
    Incompatibility("transformers", (4, 57), (4, 58), "ZeRO-3 cannot load Gemma 3 of 4b and more (#41762)"),
    Incompatibility("transformers", (5, 0), (5, 8), "training Gemma 3 of 4b and more wants token_type_ids"),
    Incompatibility("accelerate", (0,), (1, 15), "FSDP2 refuses tied embeddings under torch 2.13 (PR #4171)"),
    Incompatibility("torch", (2, 11), (2, 13), "cuDNN's attention gives NaN on H100 (#196678)"),
)

Installed = Callable[[str], str | None]


def installed_version(package: str) -> str | None:
    """The version of an installed package; ``None`` where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def minimum_versions() -> dict[str, str]:
    """Packages of the extra `train` with their minimum versions."""
    found = {}
    for line in requires("gemfit") or ():
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)\s*;\s*extra == .train", line)
        if match:
            found[match[1]] = match[2]
    return found


def check_packages(
    minimum: Mapping[str, str], installed: Installed = installed_version, python: tuple[int, ...] = ()
) -> Iterator[CheckResult]:
    """Python, training packages, optional packages."""
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
    shown = ".".join(map(str, found))
    if found < PYTHON:
        return error(ABOUT, "python", shown, "use Python 3.11 or newer")
    return ok(ABOUT, "python", shown)


def _versions(minimum: Mapping[str, str], versions: Mapping[str, str | None]) -> Iterator[CheckResult]:
    for package, least in minimum.items():
        found = versions[package]
        if found is None:
            yield error(ABOUT, package, "not installed", install_hint("train"))
        elif numbers(found) < numbers(least):
            problems = "; ".join(_incompatibilities(package, found))
            known = f": {problems}" if problems else ""
            yield error(
                ABOUT, package, f"{found}, older than {least}{known}", f"pip install '{package}>={least}'"
            )
        elif problems := "; ".join(_incompatibilities(package, found)):
            yield warning(ABOUT, package, f"{found}: {problems}", "use a newer version")
        else:
            yield ok(ABOUT, package, found)


def _incompatibilities(package: str, found: str) -> Iterable[str]:
    return (c.what for c in INCOMPATIBILITIES if c.package == package and c.first <= numbers(found) < c.below)


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version such as ``2.13.0+cpu``, without its suffix."""
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)  # type: ignore[index]  # matches all
