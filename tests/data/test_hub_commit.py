"""Datasets on a Hub: a plan is of one commit, and a pushed dataset is another pack."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from gemfit.core import hub_commit
from gemfit.data.jsonl.inputs import inputs_of
from gemfit.errors import UserError
from gemfit.schemas.pack_job import PackJob, make_pack_job
from gemfit.schemas.pin_revisions import pin_revisions
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from publish.repos import Entry, Repo
from publish.server import HubServer

NAME = "user/chats"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A fake Hub with one dataset of a single commit."""
    with HubServer(tmp_path / "hub") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        server.repos[NAME] = Repo(private=False)
        push(server, "first")
        hub_commit._asked.cache_clear()
        yield server


def push(server: HubServer, word: str) -> str:
    """One more commit of ``main``: a Parquet file with one conversation."""
    messages = [{"role": "user", "content": word}, {"role": "assistant", "content": f"{word} answer"}]
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist([{"messages": messages}]), stream)
    content = stream.getvalue()
    oid = hashlib.sha256(content).hexdigest()
    (server.folder / oid).write_bytes(content)
    files = {"train-00000-of-00001.parquet": Entry(len(content), oid, large=True)}
    hub_commit._asked.cache_clear()
    return server.repos[NAME].add("main", files, word)


def job_of(source: str = f"hf:{NAME}", **data: str) -> PackJob:
    model = ModelRecipe(scratch=ScratchModel())
    return make_pack_job(Recipe(model=model, data=DataRecipe(source=source, **data)))  # type: ignore[arg-type]


def test_a_dataset_that_was_pushed_again_is_another_pack(hub: HubServer) -> None:
    first = job_of()
    assert first.sources[0].commit == hub.repos[NAME].branches["main"]
    assert inputs_of(first)[0].commit == first.sources[0].commit
    second_commit = push(hub, "second")
    second = job_of()
    assert second.sources[0].commit == second_commit
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == job_of(hf_revision=str(first.sources[0].commit)).fingerprint


def lines_of(job: PackJob) -> str:
    """All lines of a job, read by a process that knows the fake Hub from its environment."""
    script = (
        "import sys\n"
        "from gemfit.data.jsonl.inputs import all_lines\n"
        "from gemfit.schemas.pack_job import PackJob\n"
        "for _, line in all_lines(PackJob.model_validate_json(sys.stdin.read())): print(line.decode())"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, input=job.to_json(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rows_are_those_of_the_commit(hub: HubServer) -> None:
    first = job_of()
    push(hub, "second")
    assert "first answer" in lines_of(first)
    assert "second answer" in lines_of(job_of())


def test_a_pinned_recipe_is_read_without_asking(hub: HubServer) -> None:
    recipe = Recipe(model=ModelRecipe(scratch=ScratchModel()), data=DataRecipe(source=f"hf:{NAME}"))
    pinned = pin_revisions(recipe)
    commit = hub.repos[NAME].branches["main"]
    assert pinned.data.hf_revision == commit
    push(hub, "second")
    before = len(hub.requests)
    assert make_pack_job(pinned).sources[0].commit == commit
    assert len(hub.requests) == before
    assert make_pack_job(pinned).fingerprint != make_pack_job(recipe).fingerprint


def test_an_unknown_name_or_revision_and_a_silent_hub_are_named(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no such dataset on the Hub that you may read"):
        job_of("hf:user/other")
    with pytest.raises(UserError, match="has no revision 'v9'"):
        job_of(hf_revision="v9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the Hub does not answer: .*HF_HUB_OFFLINE=1"):
        job_of()


def test_offline_the_cached_commit_counts(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"is not in the Hub cache .*run `gemfit fetch`"):
        job_of()
    commit, folder = "a" * 40, tmp_path / "other_cache" / "datasets--user--chats"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").write_text('{"messages": [{"role": "user", "content": "cached"}]}\n')
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other_cache"))
    job = job_of()
    assert job.sources[0].commit == commit
    assert "cached" in lines_of(job)


def test_a_model_in_the_cache_is_pinned_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--user--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("b" * 40)
    for tokenizer, revision in ((None, "main"), ("user/model", "main"), ("user/other", "main")):
        model = pin_revisions(Recipe(model=ModelRecipe(id="user/model", tokenizer=tokenizer))).model
        assert (model.revision, model.tokenizer_revision) == ("b" * 40, revision)
    assert pin_revisions(Recipe(model=ModelRecipe(id="user/other"))).model.revision == "main"
    folder = tmp_path / "here"
    folder.mkdir()
    assert pin_revisions(Recipe(model=ModelRecipe(id=str(folder)))).model.revision == "main"


def test_the_revision_of_a_model_is_not_that_of_another_tokenizer() -> None:
    model = ModelRecipe(id="user/model", revision="v1", tokenizer="user/other", tokenizer_revision="v2")
    assert model.tokenizer_source == ("user/other", "v2")
    assert model.model_copy(update={"tokenizer": None}).tokenizer_source == ("user/model", "v1")
    assert ModelRecipe(scratch=ScratchModel()).tokenizer_source is None


def test_a_model_in_a_folder_is_the_same_from_any_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = pin_revisions(Recipe(model=ModelRecipe(id="work/model", tokenizer="work/model"))).model
    assert model.id == model.tokenizer == str(tmp_path / "work/model")
    separate = pin_revisions(Recipe(model=ModelRecipe(id="g/m", tokenizer="./work/model"))).model
    assert (separate.id, separate.tokenizer) == ("g/m", str(tmp_path / "work/model"))


def test_a_dataset_in_a_folder_is_the_same_from_any_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work/data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = ModelRecipe(scratch=ScratchModel())
    alone = pin_revisions(Recipe(model=model, data=DataRecipe(source="hf:work/data"))).data
    mixed = DataRecipe(sources=(SourceRecipe(source="hf:work/data"), SourceRecipe(source="b.jsonl")))
    whole = f"hf:{tmp_path / 'work/data'}"
    assert (alone.source, alone.hf_revision) == (whole, None)
    pinned = pin_revisions(Recipe(model=model, data=mixed)).data
    assert [source.source for source in pinned.sources] == [whole, "b.jsonl"]
