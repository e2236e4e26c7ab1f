"""Text files that others may have written: damage is an error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.core.text_file import read_text_file
from gemfit.errors import UserError
from gemfit.rundir import RunDir


def test_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    with pytest.raises(UserError, match=r"notes\.md: cannot be read: No such file"):
        read_text_file(path)
    path.write_bytes(b"ok\xff")
    with pytest.raises(UserError, match=r"notes\.md: is not UTF-8 text: invalid start byte at byte 2"):
        read_text_file(path)
    path.write_text("schön", encoding="utf-8")
    assert read_text_file(path) == "schön"
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_text_file(tmp_path)


def test_a_folder_in_place_of_a_state_file_of_a_run_is_no_traceback(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.attempt_file.mkdir()
    assert run.attempt == 0
    run.plans.mkdir()
    run.attempt_record_file(3).touch()
    assert run.attempt == 3  # as where it is damaged
    run.stop_file.mkdir()
    with pytest.raises(UserError, match="stop: is a folder; remove it"):
        run.stop_requested_by()
    run.stop_file.rmdir()
    run.stop_file.write_bytes(b"\xff")
    assert run.stop_requested_by() == "\ufffd"
