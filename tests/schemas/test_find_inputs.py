"""Files of a folder or glob: what is read, what is passed over and why."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files, find_inputs, is_stream
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel

LINE = '{"messages": []}\n'


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE)


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files(str(folder))]


def test_all_kinds_are_read_in_any_case_and_others_are_named(tmp_path: Path) -> None:
    read = ["E.JSONL", "a.jsonl", "b.json", "c.ndjson", "d.parquet", "f.csv", "g.jsonl.bz2", "sub/h.json.xz"]
    passed_over = ["README.md", "dataset_info.json", "i.parquet.gz", "j.tar.gz", "k.txt", "noname"]
    write(*(tmp_path / name for name in read + passed_over))
    files, note = find_inputs(str(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in files] == read
    assert note is not None
    assert "1 .csv, 1 .json, 1 .json.xz, 2 .jsonl, 1 .jsonl.bz2, 1 .ndjson, 1 .parquet" in note
    assert all(f"{name} (" in note for name in passed_over)
    assert "\n" not in note


def test_hidden_files_and_folders_stay_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", tmp_path / ".b.jsonl", tmp_path / ".ipynb_checkpoints/a-checkpoint.jsonl")
    files, note = find_inputs(str(tmp_path))
    assert files == [tmp_path / "a.jsonl"]
    assert str(note).endswith("; 2 hidden")


def test_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    write(folder / "own/a.jsonl", elsewhere / "g.jsonl")
    (folder / "first").symlink_to(elsewhere)
    (folder / "second").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "own")
    (folder / "own/loop").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    files, note = find_inputs(str(folder))
    assert [str(path.relative_to(folder)) for path in files] == ["first/g.jsonl", "own/a.jsonl"]
    for name in ("again", "second", "own/loop", "first/back"):
        assert f"{name} (a link to a folder that is read)" in str(note)
    assert "gone (a broken link)" in str(note)


def test_a_link_to_a_file_of_the_folder_is_not_read_twice(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder / "a.jsonl", tmp_path / "other.jsonl")
    (folder / "b.jsonl").symlink_to("a.jsonl")
    (folder / "c.jsonl").symlink_to(tmp_path / "other.jsonl")
    assert names(folder) == ["a.jsonl", "c.jsonl"]


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.jsonl"))
        files, note = find_inputs(str(tmp_path))
    assert files == [tmp_path / "a.jsonl"]
    assert "pipe.jsonl (not a regular file), s.jsonl (not a regular file)" in str(note)


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *(tmp_path / f"{number}.txt" for number in range(30)))
    assert "and 22 more" in str(find_inputs(str(tmp_path))[1])


def test_a_glob_says_what_it_passes_over(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", tmp_path / "a.txt", tmp_path / "sub/b.jsonl")
    files, note = find_inputs(f"{tmp_path}/*")
    assert files == [tmp_path / "a.jsonl"]
    assert "a.txt (unknown kind)" in str(note)


def test_a_glob_of_any_depth_reads_linked_folders_once(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl", tmp_path / "sub/deep/b.jsonl", tmp_path / "sub/c.json", tmp_path / ".h/d.jsonl"
    )
    for name in ("me", "sub/me", "sub/deep/me"):
        (tmp_path / name).symlink_to(tmp_path)  # glob.glob would take each way through them
    files, note = find_inputs(f"{tmp_path}/**/*.jsonl")
    assert files == [tmp_path / "a.jsonl", tmp_path / "sub/deep/b.jsonl"]
    assert "sub/me (a link to a folder that is read)" in str(note)
    found = find_files(f"{tmp_path}/sub/**")
    assert found == [tmp_path / "sub" / name for name in ("c.json", "deep/b.jsonl", "deep/me/a.jsonl")]
    assert find_files(f"{tmp_path}/sub") == found
    assert find_files(f"{tmp_path}/s*/**/?.jsonl") == [tmp_path / "sub/deep/b.jsonl"]
    with pytest.raises(UserError, match="no file is read"):
        find_files(f"{tmp_path}/nothing/**/*.jsonl")


def test_a_link_to_itself_is_a_broken_link(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("b.jsonl")
    files, note = find_inputs(str(tmp_path))
    assert files == [tmp_path / "a.jsonl"]
    assert "b.jsonl (a broken link)" in str(note)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("~no-such-user/a.jsonl", "home directory"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(source: str, reason: str) -> None:
    for find in (find_files, is_stream):
        with pytest.raises(UserError, match=f"cannot be the name of a file: .*{reason}"):
            find(source)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match=r"data\.source is not set"):
        find_files("")


def test_nothing_to_read_is_refused_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"no file is read; passed over: a\.txt \(unknown kind\); what"):
        find_files(str(tmp_path))
    with pytest.raises(UserError, match="is not a kind of file that is read"):
        find_files(str(tmp_path / "a.txt"))


def test_a_folder_of_save_to_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "state.json")
    with pytest.raises(UserError, match=f"give it as hf:{tmp_path}"):
        find_files(str(tmp_path))


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    write(tmp_path / "data" / f"{odd}.jsonl")
    write(tmp_path / odd / "x.jsonl")
    write(tmp_path / "passed" / f"{odd}.txt", tmp_path / "passed/a.jsonl")
    folder = tmp_path / "data"
    for source in (folder, tmp_path / odd, folder / f"{odd}.jsonl", f"{folder}/*"):
        with pytest.raises(UserError, match=r"caf\\udce9.*: the name is not UTF-8; rename it"):
            find_files(str(source))
        recipe = Recipe(model=ModelRecipe(scratch=ScratchModel()), data=DataRecipe(source=f"hf:{source}"))
        if Path(str(source)).is_dir():
            with pytest.raises(UserError, match="is not UTF-8"):
                make_pack_job(recipe)
    note = find_inputs(str(tmp_path / "passed"))[1]
    assert str(note).encode()


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "/dev/null"])
def test_pipes_and_devices_are_named(source: str) -> None:
    assert is_stream(source)
    with pytest.raises(UserError, match="can be read once only; `gemfit pack --data -`"):
        find_files(source)


def test_files_in_memory_are_files(tmp_path: Path) -> None:
    assert not is_stream("/dev/shm/a.jsonl")
    os.mkfifo(tmp_path / "x.jsonl")
    assert is_stream(str(tmp_path / "x.jsonl"))
