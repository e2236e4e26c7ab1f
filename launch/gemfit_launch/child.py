"""Start the heavy side: a module of the ``train`` extra, in a process of its own, by this interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from gemfit.errors import ExitCode, UserError


def require_train_extra(verb: str) -> None:
    """``UserError`` where the libraries that train are not installed; imports none of them."""
    if find_spec("torch") is None:
        raise UserError(
            f"`gemfit {verb}` needs libraries that are not installed: pip install 'gemfit[train]'"
        )


def run_module(module: str, arguments: Sequence[str]) -> ExitCode:
    """Run ``python -m module``, on this terminal, to its end."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    known = {code.value for code in ExitCode}
    return ExitCode(done.returncode) if done.returncode in known else ExitCode.FAILED
