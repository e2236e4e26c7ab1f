"""Atomic files and folders: several writers of one path, errors, leftovers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gemfit.core.atomic_file import replacing, write_atomic
from gemfit.core.atomic_folder import make_folder, staging
from gemfit.data.build.block_cache import USED_LATELY_SECONDS, trim
from gemfit.errors import UserError


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the outer one is renamed last
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_folder_do_not_share_a_temporary_folder(tmp_path: Path) -> None:
    def write_twice() -> None:
        with staging(tmp_path / "a") as first:
            with staging(tmp_path / "a") as second:
                assert first != second
                assert {path.name.rpartition("-")[0] for path in (first, second)} == {".a.partial"}
                (second / "file").write_text("second")
            (first / "file").write_text("first")

    with pytest.raises(UserError, match="already exists"):
        write_twice()
    assert (tmp_path / "a/file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_trimming_the_block_cache_removes_old_temporary_files(tmp_path: Path) -> None:
    old, fresh = (tmp_path / "meaning" / f".{name}.block.{name}" for name in ("old", "fresh"))
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_bytes(b"")
    before = time.time() - USED_LATELY_SECONDS - 60
    os.utime(old, (before, before))
    trim(tmp_path, ())
    assert list(old.parent.iterdir()) == [fresh]


@pytest.mark.parametrize("name", ["/proc/gemfit/packs", "{file}", "{file}/packs", "{link}"])
def test_a_folder_that_cannot_be_made_is_explained(name: str, tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    link.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"write elsewhere \(--out, or GEMFIT_CACHE\)"):
        make_folder(Path(name.format(file=file, link=link)))
