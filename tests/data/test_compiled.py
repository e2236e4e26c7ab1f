"""Compiled code is cached by its content: never next to the source, never compiled twice."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from numba.core.errors import NumbaWarning

from gemfit.data import compiled as compiled_code
from gemfit.data.__main__ import is_tiny, main
from gemfit.data.build import compile_kernels
from gemfit.schemas.pack_job import PackJob, make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel

from .conftest import WriteConversations, WriteJob, content
from .conftest import random_conversations as conversations

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of a few conversations, one of them longer than a row."""
    folder = tmp_path_factory.mktemp("job")
    data = folder / "data.jsonl"
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": f"word {n} of a long conversation"}
        for n in range(40)
    ]
    conversations = [turns, *(turns[:2] for _ in range(12))]
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in conversations))
    recipe = Recipe(
        model=ModelRecipe(scratch=ScratchModel(vocab_size=300)), data=DataRecipe(source=str(data), seq_len=64)
    )
    path = folder / "job.json"
    path.write_text(make_pack_job(recipe).to_json())
    return path


def environment(cache: Path, code: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    return inherited | {"GEMFIT_CACHE": str(cache), "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}


COMPILES = [
    sys.executable,
    "-c",
    "import sys; from gemfit.data.__main__ import is_tiny, main; sys.exit(main())",
]
"""The builder where it is not the program: it compiles for tiny inputs as well."""
PROGRAM = [sys.executable, "-m", "gemfit.data"]


def build(job: Path, out: Path, cache: Path, code: Path, program: list[str] = COMPILES) -> str:
    argv = [*program, str(job), "--out", str(out), "--workers", "1"]
    done = subprocess.run(argv, env=environment(cache, code), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def compiled(cache: Path) -> set[Path]:
    return {path for path in (cache / "numba").rglob("*") if path.suffix in (".nbi", ".nbc")}


@dataclass(frozen=True)
class FirstBuild:
    """A build with an empty cache: what it compiled lies there, and what it said is here."""

    cache: Path
    out: Path
    said: str


@pytest.fixture(scope="module")
def first_build(job: Path, tmp_path_factory: pytest.TempPathFactory) -> FirstBuild:
    folder = tmp_path_factory.mktemp("first")
    cache, out = folder / "cache", folder / "out"
    return FirstBuild(cache, out, build(job, out, cache, SOURCES))


@pytest.mark.slow
def test_a_copy_of_the_code_elsewhere_compiles_nothing_again(
    job: Path, first_build: FirstBuild, tmp_path: Path
) -> None:
    assert first_build.said.count("compiling kernels") == 1
    cache = first_build.cache
    before = compiled(cache)
    assert len(before) > 20
    frozen = tmp_path / "frozen"
    shutil.copytree(SOURCES / "gemfit", frozen / "gemfit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(cache / "blocks")  # so that the blocks are made again
    said = build(job, tmp_path / "second", cache, frozen)
    assert "compiling" not in said
    assert compiled(cache) == before
    assert not list(frozen.rglob("*.nb*"))


@pytest.mark.slow
def test_made_up_data_compile_all_that_a_build_needs(job: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path\n"
        "from gemfit.data.build.compile_kernels import plan_and_gather, render_block\n"
        "plan_and_gather(Path(sys.argv[1]))\nrender_block(Path(sys.argv[1]))"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "made up")]
    subprocess.run(argv, env=environment(cache, SOURCES), check=True, timeout=300)
    planned = compiled(cache)
    build(job, tmp_path / "out", cache, SOURCES)
    assert len(planned) > 20
    assert compiled(cache) == planned


@pytest.mark.slow
def test_a_small_input_is_encoded_without_compiling_the_bpe(first_build: FirstBuild) -> None:
    bpe = {path.stem for path in (SOURCES / "gemfit/data/tokenize/bpe").glob("*.py")} - {"__init__"}
    assert {path.name.partition(".")[0] for path in compiled(first_build.cache)} & bpe == set()


@pytest.mark.slow
def test_an_interrupt_while_kernels_are_compiled_leaves_no_process_and_no_traceback(
    job: Path, tmp_path: Path
) -> None:
    argv = [*COMPILES, str(job), "--out", str(tmp_path / "out")]
    env = environment(tmp_path / "cache", SOURCES)
    with subprocess.Popen(
        argv, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while "compiling" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(3)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_where_nothing_can_be_written_kernels_are_compiled_for_the_build_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = "from gemfit.data.compiled import compiled_folder; print(compiled_folder(), compiled_folder())"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment(blocked, SOURCES), capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first == second
    assert Path(first).is_dir()
    assert done.stderr.count("set GEMFIT_CACHE") == 1
    Path(first).rmdir()


def test_the_marker_of_another_processor_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (compiled_code, compile_kernels):
        monkeypatch.setattr(module, "compiled_folder", lambda: tmp_path)
    monkeypatch.setattr(compile_kernels, "_compile", lambda work, folder: None)
    said: list[str] = []
    for cpu in ("old", "old", "new"):
        monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda name=cpu: name)
        with compile_kernels.compiling(said.append) as wait:
            wait()
    assert len(said) == 2


WAYS: list[dict[str, Any]] = [
    {"overlong": "split", "near_duplicates": "group", "pii": "mask"},
    {"overlong": "cut", "loss_on": "assistant", "near_duplicates": "drop", "pii": "count"},
    {"overlong": "truncate", "format": "chat_template", "validation_share": 0.3},
    {"overlong": "drop", "eos": "literal"},
]


@pytest.mark.parametrize("way", WAYS, ids=[way["overlong"] for way in WAYS])
def test_a_tiny_input_compiles_nothing_and_gives_the_same_bytes(
    way: dict[str, Any], write_conversations_file: WriteConversations, write_job: WriteJob, tmp_path: Path
) -> None:
    lines = conversations(250, seed=5, words=20)
    lines[7]["messages"][-1]["content"] += " write to someone@example.org "
    conversation = [
        message for line in lines[30:33] for message in line["messages"] if message["role"] != "system"
    ]
    lines += [*lines[:20], {"messages": conversation}]
    way = {"validation_share": 0.1} | way
    job = write_job(write_conversations_file(lines), seq_len=96, **way)
    cache = tmp_path / "interpreted"
    build(job, tmp_path / "tiny", cache, SOURCES, PROGRAM)
    assert not compiled(cache)
    assert main([str(job), "--out", str(tmp_path / "compiled")]) == 0
    assert content(tmp_path / "tiny") == content(tmp_path / "compiled")


def test_compressed_inputs_are_not_tiny(
    write_conversations_file: WriteConversations, write_job: WriteJob, tmp_path: Path
) -> None:
    plain = write_conversations_file(conversations(8))
    compressed, parquet = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet"
    compressed.write_bytes(gzip.compress(plain.read_bytes()))
    datasets.Dataset.from_list(conversations(8)).to_parquet(parquet)
    jobs = [PackJob.read(write_job(path)) for path in (plain, compressed, parquet)]
    assert list(map(is_tiny, jobs)) == [True, False, False]


@pytest.mark.slow
def test_compiled_kernels_are_used_for_tiny_inputs_where_they_are_there(
    job: Path, first_build: FirstBuild, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(first_build.cache / "numba", cache / "numba")
    code = (
        "import sys, runpy; sys.argv = ['gemfit.data', *sys.argv[1:]]\n"
        "try: runpy.run_module('gemfit.data', run_name='__main__')\n"
        "finally: sys.stderr.write(f'numba: {\"numba\" in sys.modules}')"
    )
    said = build(job, tmp_path / "tiny", cache, SOURCES, [sys.executable, "-c", code])
    assert said.endswith("numba: True")
    assert content(tmp_path / "tiny") == content(first_build.out)
    said = build(job, tmp_path / "again", tmp_path / "empty", SOURCES, [sys.executable, "-c", code])
    assert said.endswith("numba: False")


def test_a_kernel_that_numba_cannot_cache_is_a_warning() -> None:
    kernel = compiled_code.njit(lambda value: value)
    lifted = SimpleNamespace(can_cache=False)
    result = SimpleNamespace(lifted=[lifted], fndesc=SimpleNamespace(qualname="kernel"))
    with pytest.warns(NumbaWarning, match="Cannot cache"):
        assert not kernel._cache._impl.check_cachable(result)
