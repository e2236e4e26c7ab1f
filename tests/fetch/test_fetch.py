"""``python -m gemfit.fetch`` against a Hub that fails: what arrives is whole, what cannot is said."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from fetch.conftest import DATASET, MODEL
from gemfit.core.hub_commit import cached_commit
from gemfit.errors import ExitCode
from gemfit.fetch.__main__ import main
from gemfit.hub import timeouts
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from publish.repos import Fault
from publish.server import HubServer

SHARD = r"resolve/.*/model-00001-of"


def fetch(folder: Path, model: ModelRecipe | None = None, **data: Any) -> int:
    """The exit status of a fetch with JSON output."""
    recipe = Recipe(model=model or ModelRecipe(id=MODEL), data=DataRecipe(**data))
    path = folder / "recipe.json"
    path.write_text(recipe.to_json())
    return main([str(path), "--json"])


def fetched(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, real: Any = time.sleep) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))


def test_model_and_dataset_are_in_the_cache_at_a_commit(
    hub: HubServer, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path, source=f"hf:{DATASET}", hf_config="chats") == ExitCode.DONE
    model, dataset = fetched(capsys)
    assert model["commit"] == hub.repos[MODEL].branches["main"] == cached_commit("model", MODEL, "main")
    assert dataset["commit"] == cached_commit("dataset", DATASET, "main")
    assert model["downloaded_bytes"] == model["bytes"] > 0
    files = {path.name for path in Path(model["folder"]).iterdir()}
    assert files == {path.name for path in model_folder.iterdir() if path.is_file()}
    data = [path.relative_to(dataset["folder"]) for path in Path(dataset["folder"]).rglob("*.jsonl")]
    assert data == [Path("chats/train.jsonl")]


def test_a_second_fetch_downloads_nothing_and_a_new_commit_only_what_changed(
    hub: HubServer, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path) == ExitCode.DONE
    first = fetched(capsys)[0]["commit"]
    assert fetch(tmp_path) == ExitCode.DONE
    assert fetched(capsys)[0]["downloaded_bytes"] == 0
    hub.publish(MODEL, model_folder, "the same files again")
    before = len(hub.requests)
    assert fetch(tmp_path) == ExitCode.DONE
    assert fetched(capsys)[0]["commit"] != first
    sent = [request for request in hub.requests[before:] if request.method == "GET"]
    assert not any("/resolve/" in request.path for request in sent)


def test_a_transfer_that_breaks_off_continues_where_it_was(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.faults.append(Fault("GET", SHARD, times=2, answer_bytes=70_000))
    assert fetch(tmp_path) == ExitCode.DONE
    assert fetched(capsys)[0]["downloaded_bytes"] > 0
    assert not hub.faults[0].times
    assert [
        request.status
        for request in hub.requests
        if "model-00001" in request.path and request.method == "GET"
    ] == [200, 206, 206]


def test_rate_limits_and_server_errors_are_waited_for(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET", SHARD, times=2, status=429, headers={"Retry-After": "1"}))
    hub.faults.append(Fault("GET", "/api/models/.*/tree", times=2, status=503))
    hub.faults.append(Fault("GET", r"/api/models/[^/]+/[^/]+/revision", times=2, status=429))
    assert fetch(tmp_path) == ExitCode.DONE
    assert [fault.times for fault in hub.faults] == [0, 0, 0]


def test_a_hub_that_stays_away_leaves_finished_files_and_no_branch(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("GET", SHARD, times=99, status=503))
    assert fetch(tmp_path) == ExitCode.STOPPED
    assert "fetch again: finished files stay" in capsys.readouterr().err
    assert cached_commit("model", MODEL, "main") is None
    hub.faults.clear()
    before = len(hub.requests)
    assert fetch(tmp_path) == ExitCode.DONE
    sent = [request.path for request in hub.requests[before:] if request.method == "GET"]
    assert not any(path.endswith("model-00002-of-00005.safetensors") for path in sent)


def test_a_file_that_is_damaged_on_disk_is_downloaded_again(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path) == ExitCode.DONE
    shard = next(Path(fetched(capsys)[0]["folder"]).glob("model-00001*"))
    whole = shard.read_bytes()
    shard.resolve().write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert fetch(tmp_path) == ExitCode.DONE
    assert "is damaged; downloading it again" in capsys.readouterr().err or shard.read_bytes() == whole
    assert shard.read_bytes() == whole


def test_a_server_that_sends_other_bytes_is_an_error(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = hub.repos[MODEL].commits[hub.repos[MODEL].branches["main"]]
    name = next(name for name in files if name.startswith("model-00001"))
    path = hub.folder / files[name].oid
    path.write_bytes(bytes(files[name].size))
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    assert f"{name}: the digest is not the Hub's" in capsys.readouterr().err
    assert cached_commit("model", MODEL, "main") is None


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("gated", "is gated: open {url}/user/tiny, accept its terms"),
        ("token", "the token is wrong or has expired"),
        ("private", "there is none of this name that you may read"),
        ("revision", "has no revision 'v9'"),
        ("name", "'a/b/c' is no folder here, and no name on the Hub"),
        ("weights", "has no model.safetensors"),
        ("config", "hf:user/chats: "),
        ("disk", "GB free, and user/tiny needs"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_with_a_way_out(
    what: str,
    says: str,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, data = ModelRecipe(id=MODEL), {}
    match what:
        case "gated":
            hub.repos[MODEL].gated = True
        case "token":
            monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        case "private":
            monkeypatch.delenv("HF_TOKEN")
            hub.repos[MODEL].private = True
        case "revision":
            model = ModelRecipe(id=MODEL, revision="v9")
        case "name":
            model = ModelRecipe(id="a/b/c")
        case "weights":
            model = ModelRecipe(id=DATASET)
        case "config":
            model, data = ModelRecipe(scratch=ScratchModel()), {"source": f"hf:{DATASET}", "hf_config": "no"}
        case "disk":
            usage = type("Usage", (), {"free": 400_000})
            monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert fetch(tmp_path, model, **data) == ExitCode.USER_ERROR
    printed = capsys.readouterr().err
    assert says.format(url=hub.url) in printed
    assert "Traceback" not in printed
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


@pytest.mark.parametrize("path", [rf"/api/models/{MODEL}/revision", "/tree/", "/resolve/.*/config.json"])
def test_a_server_that_redirects_for_ever_is_named(
    path: str, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("GET", "HEAD"):
        there = {"Location": f"/api/models/{MODEL}/revision/tree/resolve/x/config.json"}
        hub.faults.append(Fault(method, path, status=307, times=999, headers=there))
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    assert f"{hub.url}: {MODEL}: answers as no Hub does (TooManyRedirects" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"<html>", ExitCode.STOPPED), (b"[]", ExitCode.USER_ERROR), (b"{}", ExitCode.USER_ERROR)],
)
def test_what_is_no_answer_of_a_hub_is_named(
    body: bytes, status: ExitCode, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("GET", rf"/api/models/{MODEL}/revision", status=200, times=99, body=body))
    assert fetch(tmp_path) == status
    assert "Traceback" not in (said := capsys.readouterr().err)
    assert "error: " in said


@pytest.mark.parametrize(
    "path", [rf"/api/models/{MODEL}/revision", "/tree/", "/resolve/.*/model.safetensors.index", SHARD]
)
def test_a_request_without_an_answer_ends(
    path: str,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(timeouts, "READ_SECONDS", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.faults.append(Fault("GET", path, times=99, stall_seconds=2))
    assert fetch(tmp_path) == ExitCode.STOPPED
    assert "the Hub does not answer: no answer in time; fetch again" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416])
def test_a_refusal_of_a_file_is_no_answer_of_a_stranger(
    method: str, status: int, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault(method, SHARD, status=status, times=99))
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert f"error: model.id: {hub.url}: {MODEL}: " in said
    assert "as no Hub does" not in said


def test_a_file_without_the_headers_of_a_hub_is_named(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("HEAD", "/resolve/", status=200, times=99, body=b""))
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert f"{hub.url}: {MODEL}: answers as no Hub does (FileMetadataError: " in said


def test_an_answer_that_cannot_be_decompressed_is_waited_for(hub: HubServer, tmp_path: Path) -> None:
    packed = {"Content-Encoding": "gzip"}
    hub.faults.append(Fault("GET", "/tree/", status=200, times=2, body=b"no gzip", headers=packed))
    assert fetch(tmp_path) == ExitCode.DONE
    assert not hub.faults[0].times


@pytest.mark.parametrize("folder", ["refs/main", "blobs", "snapshots"])
def test_what_is_in_the_place_of_a_file_or_folder_of_the_cache_is_named(
    folder: str, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path) == ExitCode.DONE
    place = Path(constants.HF_HUB_CACHE) / "models--user--tiny" / folder
    if place.is_file():
        place.unlink()
        place.mkdir()
    else:
        shutil.rmtree(place)
        place.touch()
    capsys.readouterr()
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    assert f"error: {place}" in capsys.readouterr().err


def test_a_shard_of_the_index_that_is_not_there_is_named(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = hub.repos[MODEL].commits[hub.repos[MODEL].branches["main"]]
    gone = next(name for name in files if name.startswith("model-00001"))
    del files[gone]
    assert fetch(tmp_path) == ExitCode.USER_ERROR
    assert f"its index or README names {gone!r}, which is not among its files" in capsys.readouterr().err


def test_local_models_and_data_need_nothing(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(Recipe(model=ModelRecipe(scratch=ScratchModel())).to_json())
    assert main([str(tmp_path / "recipe.json")]) == ExitCode.DONE
    assert capsys.readouterr().out == "nothing to fetch: model and data are local\n"
    assert not hub.requests
