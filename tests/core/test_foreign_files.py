"""Links out of a folder, in folders of which other nodes remove files meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.errors import UserError


@pytest.mark.parametrize("gone", [errno.ENOENT, errno.ENOTDIR, errno.ESTALE])
def test_a_folder_that_is_removed_meanwhile_holds_nothing(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    real = os.scandir

    def scandir(folder: Path) -> Any:
        if Path(folder) == tmp_path / "a":
            raise OSError(gone, os.strerror(gone))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    refuse_foreign_files(tmp_path)


def test_a_folder_without_permission_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(folder: Path) -> Any:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        refuse_foreign_files(tmp_path)


@pytest.mark.parametrize("gone", [errno.ENOENT, errno.ESTALE])
def test_a_link_that_is_removed_meanwhile_is_no_link(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="link is a link to /etc/passwd"):
        refuse_foreign_files(tmp_path)

    def readlink(path: Path) -> Path:
        raise OSError(gone, os.strerror(gone))

    monkeypatch.setattr(Path, "readlink", readlink)
    refuse_foreign_files(tmp_path)
