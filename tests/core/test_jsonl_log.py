"""Logs of JSON lines after a writer that died within a line, and with lines of wrong types."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gemfit.core.jsonl_log import append_record
from gemfit.errors import UserError
from gemfit.schemas.metrics import SaveRecord
from gemfit.schemas.metrics_history import read_records
from gemfit_launch.runs.metrics_tail import Tail, recent_records


def save(step: int) -> SaveRecord:
    return SaveRecord(attempt=1, step=step, stall_seconds=0.5, write_seconds=1.0, bytes=10, time=1.0)


LINE = save(2).model_dump_json().encode()
BAD_LINES = [
    b'{"kind":"save","attem',
    b"null",
    b"[]",
    b"3",
    b'{"attempt":1}',
    b'{"kind":"of another version"}',
    b'{"kind":["save"]}',
    LINE.replace(b'"step":2', b'"step":"two"'),
    b"\0\0\0\0",
    b"\xff\xfe",
]


@pytest.mark.parametrize("cut", range(1, len(LINE)))
def test_a_record_after_a_torn_line_begins_a_new_line(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_record(path, save(1))
    with path.open("ab") as stream:
        stream.write(LINE[:cut])
    append_record(path, save(3))
    append_record(path, save(4))
    assert read_records(path) == recent_records(path) == [save(1), save(3), save(4)]


def test_a_whole_record_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINE)
    append_record(path, save(3))
    assert read_records(path) == [save(2), save(3)]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_is_skipped_with_a_warning_of_file_and_line(
    bad: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    append_record(path, save(1))
    tail = Tail.from_end(path)
    with path.open("ab") as stream:
        stream.write(LINE + b"\n" + bad + b"\n")
    append_record(path, save(3))
    with caplog.at_level(logging.WARNING):
        assert read_records(path) == [save(1), save(2), save(3)]
        assert tail.read() == [save(2), save(3)]
    assert [record.getMessage().startswith(f"{path}:3: ") for record in caplog.records] == [True, True]


def test_many_bad_lines_give_few_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"bad\n" * 1000 + LINE + b"\n")
    assert read_records(path) == [save(2)]
    assert len(caplog.records) == 4
    assert "997 more lines are skipped" in caplog.text


def test_a_file_of_other_lines_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"bad\n")
    with pytest.raises(UserError, match="holds no record of this version"):
        read_records(path)
