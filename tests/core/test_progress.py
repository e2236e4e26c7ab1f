"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

import pytest

from gemfit.core import progress


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        with progress.progress("packing", 200, "bytes") as shown:
            shown.at(50)
        assert capsys.readouterr().err == "packing: 50 bytes (25%)\n"
        patch.setattr(sys.stderr, "isatty", lambda: True)
        with progress.progress("packing", 200, "bytes") as shown:
            shown.at(200)
        assert "packing: 100%" in capsys.readouterr().err
