"""Hub datasets as streams, here from a local folder of Parquet."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from gemfit.data.__main__ import main
from gemfit.data.jsonl.hub_stream import hub_lines
from gemfit.data.pack.reader import read_manifest
from gemfit.errors import UserError
from gemfit.schemas.pack_job import JobSource, make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel

from .conftest import Build, random_conversations


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as one Parquet file of a folder."""

    def write(rows: list[dict[str, object]]) -> Path:
        folder = tmp_path / "rows"
        folder.mkdir()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "reason"), [("../b.parquet", "not a part of it"), (".b.parquet", "a hidden file; rename it")]
)
def test_files_that_a_readme_names_and_no_digest_covers_are_refused(
    name: str, reason: str, parquet: Callable[..., Path]
) -> None:
    """A pack would be found again although they have changed."""
    folder = parquet([{"prompt": "a", "completion": "b"}])
    shutil.copy(folder / "part.parquet", folder / name)
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n"
    (folder / "README.md").write_text(readme)
    with pytest.raises(UserError, match=rf"its README names .*b\.parquet, .*{reason}"):
        list(hub_lines(JobSource(name="x", hub=str(folder))))


def test_a_linked_folder_is_refused_and_a_linked_file_read(
    parquet: Callable[..., Path], build: Build, tmp_path: Path
) -> None:
    """``datasets`` does not list the files of a linked folder, and no digest covers them."""
    folder = parquet(random_conversations(20))
    elsewhere = tmp_path / "elsewhere"
    (folder / "part.parquet").rename(tmp_path / "part.parquet")
    (folder / "part.parquet").symlink_to(tmp_path / "part.parquet")
    elsewhere.mkdir()
    (folder / ".hidden").symlink_to(elsewhere)
    status, printed = build(f"hf:{folder}", seq_len=256)
    assert status == 0, printed
    (folder / "more").symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"^hf:{folder}: more is a link to a folder, which is not followed"):
        build(f"hf:{folder}", seq_len=256)


def test_a_folder_of_parquet_is_packed_like_jsonl(
    parquet: Callable[..., Path], build: Build, tmp_path: Path
) -> None:
    folder = parquet(random_conversations(60))
    status, printed = build(f"hf:{folder}", seq_len=256)
    assert status == 0, printed
    manifest = read_manifest(tmp_path / "pack")
    assert manifest.losses.lines_read == 60
    assert manifest.inputs[0].bytes == (folder / "part.parquet").stat().st_size
    assert len(manifest.inputs[0].xxh3) == 32
    assert sum(counts.conversations for counts in manifest.splits.values()) == 60


def test_a_bad_row_is_named_by_its_number(parquet: Callable[..., Path], build: Build, tmp_path: Path) -> None:
    rows = random_conversations(5)
    rows[3]["messages"][1]["role"] = "robot"
    folder = parquet(rows)
    status, printed = build(f"hf:{folder}")
    assert status == 2
    assert f"error: {folder}:4: messages[1].role is 'robot', expected system, user, assistant" in printed
    assert not (tmp_path / "pack").exists()
    assert build(f"hf:{folder}", on_error="skip")[0] == 0
    assert '"line":4' in (tmp_path / "pack/rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "reason"), [({"hf_split": "dev"}, "split dev"), ({"hf_config": "fr"}, "config fr")]
)
def test_an_unknown_split_or_configuration_is_named(
    options: dict[str, str], reason: str, parquet: Callable[..., Path], build: Build
) -> None:
    folder = parquet(random_conversations(5))
    status, printed = build(f"hf:{folder}", **options)
    assert status == 2
    assert f"error: hf:{folder}:" in printed
    assert reason in printed
    assert "check data.source" in printed


def test_rows_without_messages_are_refused(parquet: Callable[..., Path], build: Build) -> None:
    folder = parquet([{"text": "hello"}])
    status, printed = build(f"hf:{folder}")
    assert status == 2
    assert f"{folder}:1: there is no `messages`, only 'text'" in printed


def test_a_stream_is_read_lazily(
    parquet: Callable[..., Path],
    write_job: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemfit.data.jsonl.line_blocks.BLOCK_BYTES", 2**13)
    job = write_job(f"hf:{parquet(random_conversations(400))}", seq_len=128, max_rows=20)
    before = signal.getsignal(signal.SIGTERM)
    for workers in ("1", "3"):
        assert main([str(job), "--out", str(tmp_path / workers), "--workers", workers]) == 0
    signal.signal(signal.SIGTERM, before)
    one, three = (read_manifest(tmp_path / workers) for workers in ("1", "3"))
    assert one == three
    assert one.splits["train"].rows == 20
    assert 1.4 < one.flow["total"].tokens_read / (20 * 128) < 4


def fingerprint(source: str, **data: str) -> str:
    recipe = Recipe(
        model=ModelRecipe(scratch=ScratchModel()),
        data=DataRecipe(source=source, **data),  # type: ignore[arg-type]
    )
    return make_pack_job(recipe).fingerprint


def test_a_local_folder_is_known_by_its_content(
    parquet: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parquet(random_conversations(5))
    before = fingerprint(f"hf:{folder}")
    moved = tmp_path / "project" / "rows"
    shutil.copytree(folder, moved)
    monkeypatch.chdir(moved.parent)
    assert fingerprint("hf:rows") == before  # equal content, wherever it lies
    (moved / ".cache").mkdir()
    (moved / ".cache/note").write_text("x")
    assert fingerprint("hf:rows") == before
    (moved / "part.parquet").rename(moved / "test.parquet")  # of another split now
    assert fingerprint("hf:rows") != before
    pyarrow.parquet.write_table(pa.Table.from_pylist(random_conversations(6)), folder / "part.parquet")
    assert fingerprint(f"hf:{folder}") != before


def test_what_has_no_effect_on_a_folder_is_refused(parquet: Callable[..., Path]) -> None:
    folder = parquet(random_conversations(5))
    with pytest.raises(UserError, match=r"data\.hf_revision has no effect"):
        fingerprint(f"hf:{folder}", hf_revision="v1")
    with pytest.raises(UserError, match="is a file; `hf:` takes a folder"):
        fingerprint(f"hf:{folder}/part.parquet")


def test_rows_of_another_form_are_read_as_those_of_files(parquet: Callable[..., Path], build: Build) -> None:
    rows = [
        {"question": f"day {n}", "answer": "sleep", "persona": "we" if n % 2 else None} for n in range(20)
    ]
    columns = {"prompt": "question", "completion": "answer", "system": "persona"}
    status, printed = build(f"hf:{parquet(rows)}", columns=columns)
    assert status == 0, printed
    assert "read as messages: prompt completion 20" in printed
