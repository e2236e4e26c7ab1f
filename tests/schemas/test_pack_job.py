"""Input files of a pack, and its fingerprint."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files
from gemfit.schemas.pack_job import COMPRESSION_RATIO, PackJob, cache_folder, make_pack_job, pack_folder
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.schemas.recipe_training import OptimRecipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "conversations"
    (made / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl.gz", "deep/c.jsonl.zst", "notes.txt"):
        (made / name).write_text(f"content of {name}")
    return made


def names(folder: Path, source: object) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files(str(source))]


def test_a_folder_stands_for_its_files_at_any_depth(folder: Path) -> None:
    assert names(folder, folder) == ["a.jsonl.gz", "b.jsonl", "deep/c.jsonl.zst"]


def test_a_glob_stands_for_what_it_matches_and_a_file_for_itself(folder: Path) -> None:
    assert names(folder, folder / "*.jsonl*") == ["a.jsonl.gz", "b.jsonl"]
    assert names(folder, folder / "**" / "*.zst") == ["deep/c.jsonl.zst"]
    assert names(folder, folder / "b.jsonl") == ["b.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    odd = folder / "a[1].jsonl"
    odd.write_text("x")
    assert find_files(str(odd)) == [odd]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "pass --data FILE.jsonl"),
        ("nowhere.jsonl", "nowhere.jsonl: there is no such file or folder"),
        ("*.nothing", r"\*\.nothing: no file is read; what is read: \.jsonl, "),
    ],
)
def test_a_source_that_gives_no_file_is_refused(source: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_files(source)


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.jsonl: is empty"):
        make_pack_job(recipe(tmp_path))


def recipe(source: Path | str, *, seed: int = 42, **data: Any) -> Recipe:
    return Recipe(
        model=ModelRecipe(scratch=ScratchModel()), data=DataRecipe(source=str(source), **data), seed=seed
    )


def fingerprint(source: Path | str, **changes: Any) -> str:
    return make_pack_job(recipe(source, **changes)).fingerprint


def test_the_name_of_a_pack_depends_on_content_not_on_place(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert fingerprint(folder) == fingerprint(elsewhere)
    (elsewhere / "b.jsonl").write_text("other content")
    assert fingerprint(folder) != fingerprint(elsewhere)


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 512},
        {"format": "chat_template"},
        {"eos": "literal"},
        {"loss_on": "assistant"},
        {"overlong": "drop"},
        {"validation_share": 0.1},
        {"on_error": "skip"},
    ],
)
def test_every_setting_that_changes_rows_changes_the_name(change: dict[str, Any], folder: Path) -> None:
    assert fingerprint(folder, **change) != fingerprint(folder)


def test_optimisation_does_not_change_the_name(folder: Path) -> None:
    changed = recipe(folder).model_copy(update={"optim": OptimRecipe(learning_rate=1.0)})
    assert make_pack_job(changed).fingerprint == fingerprint(folder)


def test_the_tokenizer_is_part_of_the_name(folder: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")

    def named(model: ModelRecipe) -> str:
        return make_pack_job(Recipe(model=model, data=DataRecipe(source=str(folder)))).fingerprint

    local = ModelRecipe(id="a/b", tokenizer=str(tokenizer))
    before = named(local)
    (tokenizer / "tokenizer.json").write_text("{ }")
    others = [named(ModelRecipe(id="a/b")), named(ModelRecipe(id="a/b", revision="v2")), named(local)]
    assert len({before, *others}) == 4


def test_a_job_survives_its_file(folder: Path, tmp_path: Path) -> None:
    job = make_pack_job(recipe(folder))
    (tmp_path / "job.json").write_text(job.to_json())
    assert PackJob.read(tmp_path / "job.json") == job


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMFIT_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert pack_folder("f") == Path("/own/packs/f")
    monkeypatch.delenv("GEMFIT_CACHE")
    assert cache_folder() == Path("/xdg/gemfit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/gemfit")


@pytest.mark.parametrize(
    ("name", "content", "text_bytes"),
    [
        ("a.jsonl", b"{}" * 50, 100),
        ("a.csv", b"messages," * 10, 90),
        ("a.jsonl.gz", gzip.compress(b"{}" * 50, mtime=0), None),
        ("a.parquet", b"PAR1" * 25, None),
    ],
)
def test_of_compressed_files_the_size_of_the_text_is_estimated(
    name: str, content: bytes, text_bytes: int | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    job = make_pack_job(recipe(tmp_path / name))
    assert job.input_bytes == len(content)
    assert job.text_bytes == (text_bytes or COMPRESSION_RATIO * len(content))
    assert job.files[0].is_compressed == (text_bytes is None)
