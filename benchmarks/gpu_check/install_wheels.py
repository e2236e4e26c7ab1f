"""Install packed wheels and this checkout into a folder, without a network and without dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def install(wheels: Path, checkout: Path, site: Path) -> Path:
    """Fill ``site`` for ``PYTHONPATH``; torch and what else is installed already stays as it is."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        sys.exit(f"{wheels}: holds no wheels; make them with benchmarks/gpu_check/pack_wheels.py")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, "--no-compile", *files], check=True)
    subprocess.run([*pip, "--no-build-isolation", str(checkout)], check=True)
    return site
