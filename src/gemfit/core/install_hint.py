"""Install hints for the extras of gemfit, and checks that their packages are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from gemfit.errors import UserError


def install_hint(extra: str) -> str:
    """The command, and where it is explained: gemfit is not on PyPI."""
    return f"pip install '/path/to/gemfit[{extra}]' (wheel or checkout; docs/slurm.md#installing)"


def require_packages(what: str, modules: Sequence[str], extra: str) -> None:
    """``UserError`` where a module of ``extra`` that ``what`` needs is missing; imports none of them."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: {install_hint(extra)}")
