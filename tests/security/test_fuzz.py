"""Mutated input is used or refused, never a traceback; `fuzz.py` has more cases than these."""

from __future__ import annotations

from pathlib import Path

import pytest

from security import fuzz
from security.stranger import make_stranger

COUNT = 200


def test_mutated_recipes_sites_run_folders_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "cache"))
    assert fuzz.run_cases(COUNT, 20, make_stranger(tmp_path)) == (COUNT, [])


def test_a_failure_and_a_hang_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(rng: object, folder: Path) -> None:
        while True:
            pass

    def fail(rng: object, folder: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.1)
    monkeypatch.setattr(fuzz, "KINDS", {"a": hang, "b": fail})
    _, found = fuzz.run_cases(2, 1, tmp_path)
    assert [one.error.split(" ")[0] for one in found] == ["Hung", "KeyError"]
