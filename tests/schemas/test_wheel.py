"""What is in the package folders and is no code is in the wheel as well."""

from __future__ import annotations

import fnmatch
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def test_every_data_file_of_a_package_is_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: passed.update(options))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    found = 0
    for package, folder in passed["package_dir"].items():
        patterns = passed["package_data"].get(
            package, passed["package_data"].get(package.partition(".")[0], [])
        )
        below = ROOT / folder
        files = below.rglob("*") if "." not in package else below.glob("*")
        for file in files:
            if file.suffix == ".py" or not file.is_file() or "__pycache__" in file.parts:
                continue
            name = file.relative_to(below).as_posix()
            assert taken(name, patterns), f"{folder}/{name} is not in setup.py's package_data"
            found += 1
    assert found > 10


def taken(name: str, patterns: list[str]) -> bool:
    """A pattern of setuptools counts from the folder of any package below."""
    parts = name.split("/")
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return any(fnmatch.fnmatch(tail, pattern) for tail in tails for pattern in patterns)
