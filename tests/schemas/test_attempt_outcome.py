"""`AttemptOutcome` in files: plain JSON strings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict


@pytest.mark.parametrize("outcome", AttemptOutcome)
def test_an_outcome_is_a_plain_string_in_json_and_reads_back(outcome: AttemptOutcome, tmp_path: Path) -> None:
    verdict, file = Verdict(outcome=outcome, attempt=1, step=3), tmp_path / "verdict.json"
    file.write_text(verdict.to_json())
    assert json.loads(file.read_text())["outcome"] == outcome.name.lower()
    assert Verdict.read(file).outcome is outcome


def test_an_unknown_outcome_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    file.write_text('{"outcome": "ended", "attempt": 1, "step": 3}')
    with pytest.raises(UserError, match="outcome"):
        Verdict.read(file)
