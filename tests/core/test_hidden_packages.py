"""Packages that are hidden while libraries are imported."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from gemfit.core.hidden_packages import hidden


def test_a_hidden_package_is_not_found_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "never_imported"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with hidden((name, "json")):
        assert importlib.util.find_spec(name) is None
        with pytest.raises(ImportError):
            importlib.import_module(name)
        assert importlib.util.find_spec("json") is not None  # imported before
    assert importlib.util.find_spec(name) is not None
