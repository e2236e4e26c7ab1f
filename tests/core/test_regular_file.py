"""Files in place of which others may have put something else: no wait for a writer, no memory without end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gemfit.core.json_file import read_json_object
from gemfit.core.jsonl_log import LONGEST_LINE, count_lines, read_lines
from gemfit.core.regular_file import MOST_BYTES, open_regular, read_regular
from gemfit.core.text_file import read_text_file
from gemfit.errors import UserError
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.runs.follow_logs import BLOCK_BYTES, last_lines


@pytest.mark.parametrize("read", [read_regular, read_text_file, read_json_object, Verdict.read])
def test_a_pipe_a_socket_and_a_device_are_named_at_once(
    read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(read)
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe")
    Path("device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for name in ("pipe", "socket", "device"):
            with pytest.raises(UserError, match=f"{name}: is a pipe, socket or device in place of a file"):
                read(Path(name))


@pytest.mark.parametrize("read", [read_regular, read_text_file, read_json_object, Verdict.read])
def test_a_file_of_more_bytes_than_any_is_not_read(read: object, tmp_path: Path) -> None:
    assert callable(read)
    path = tmp_path / "verdict.json"
    path.touch()
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"verdict\.json: has 1,073,741,825 bytes, more than"):
        read(path)


def test_other_failures_have_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for path, error in ((tmp_path / "missing", FileNotFoundError), (tmp_path / "circle", OSError)):
        with pytest.raises(error) as found:
            open_regular(path)
        assert found.value.filename == str(path)
    with pytest.raises(IsADirectoryError) as folder:
        open_regular(tmp_path)
    assert folder.value.filename == str(tmp_path)


def test_a_line_without_an_end_comes_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"a\n")
    os.truncate(path, LONGEST_LINE + 10)
    with open_regular(path) as stream:
        assert [len(line) for line in read_lines(stream)] == [2, LONGEST_LINE, 8]
    assert count_lines(path, LONGEST_LINE + 10) == 1


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_last_lines_of_a_log_are_found_from_its_end(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "attempt-1.log"
    lines = [b"x" * (BLOCK_BYTES // 2 + 7), b"", b"y" * 3, b"z" * (BLOCK_BYTES - 3), b"last"]
    path.write_bytes(b"\n".join(lines) + end)
    for count in (1, 2, 3, 4, 5, 6, None):
        wanted = b"\n".join(lines[-count:] if count else lines) + b"\n"
        assert b"".join(last_lines(path, count)) == wanted
    path.write_bytes(b"")
    assert b"".join(last_lines(path, 3)) == b"".join(last_lines(tmp_path / "no.log", 3)) == b""
