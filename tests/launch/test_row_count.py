"""How many rows an epoch has, and how honestly that is said."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import make_pack_job, pack_folder
from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.row_count import find_rows


def tiny(data: Path | str | None) -> Recipe:
    return Request(name="debug/cpu-tiny", data=str(data) if data else None).recipe()


def test_without_data_the_size_of_the_reference_data_is_a_placeholder() -> None:
    rows = find_rows(Request(name="gemma3/1b-reference").recipe())
    assert (rows.count, rows.packed) == (9766, False)
    assert "no data is given" in str(rows.note)
    assert "placeholder" in str(rows.note)


def test_unpacked_data_is_estimated_from_its_bytes(conversations: Path) -> None:
    rows = find_rows(tiny(conversations))
    assert rows.count == -(-conversations.stat().st_size * 0.9 / 4 // 512)
    assert not rows.packed
    assert "estimated" in str(rows.note)


def test_compressed_data_is_estimated_larger_than_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 256
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content, 0))
    assert find_rows(tiny(packed)).count > 3 * find_rows(tiny(plain)).count


def test_packed_data_is_counted(conversations: Path, packed: Callable[..., PackManifest]) -> None:
    packed(make_pack_job(tiny(conversations)), rows=123)
    rows = find_rows(tiny(conversations))
    assert (rows.count, rows.packed, rows.note) == (123, True, None)


def test_a_pack_of_other_settings_is_not_taken(
    conversations: Path, packed: Callable[..., PackManifest]
) -> None:
    packed(make_pack_job(tiny(conversations)), rows=123)
    changed = Request(name="debug/cpu-tiny", data=str(conversations), settings=("data.seq_len=256",)).recipe()
    assert not find_rows(changed).packed


def test_a_source_on_the_hub_is_not_asked_for_its_size() -> None:
    settings = (f"data.hf_revision={'c' * 40}",)
    request = Request(name="debug/cpu-tiny", data="hf:someone/conversations", settings=settings)
    rows = find_rows(request.recipe())
    assert "hf:someone/conversations is not packed yet" in str(rows.note)
    assert rows.pack.fingerprint


def test_a_pack_folder_without_a_manifest_is_refused(conversations: Path) -> None:
    pack_folder(make_pack_job(tiny(conversations)).fingerprint).mkdir(parents=True)
    with pytest.raises(UserError, match="is not a finished pack"):
        find_rows(tiny(conversations))


def test_a_pack_is_named_by_its_absolute_path_even_in_a_relative_cache(
    conversations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(conversations.parent)
    monkeypatch.setenv("GEMFIT_CACHE", "here")
    assert Path(find_rows(tiny(conversations)).pack.folder).parent == conversations.parent / "here" / "packs"


def test_looking_writes_nothing(conversations: Path, empty_cache: Path) -> None:
    find_rows(tiny(conversations))
    assert not empty_cache.exists()
