"""How to install an extra of gemfit, for error messages."""

from __future__ import annotations


def install_hint(extra: str) -> str:
    """The command, and where it is explained: gemfit is not on PyPI."""
    return f"pip install '/path/to/gemfit[{extra}]' (wheel or checkout; docs/slurm.md#installing)"
