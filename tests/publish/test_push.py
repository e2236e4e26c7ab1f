"""Push of a checkpoint to a repository, with failures of server and network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import find_damage
from gemfit.checkpoint.resolve_checkpoint import resolve_trained
from gemfit.errors import ExitCode
from gemfit.export.export import export
from gemfit.hub import timeouts
from gemfit.publish.push import main
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.manifest import CheckpointManifest
from gemfit.upload.spool import Spool, push_of_step
from publish.conftest import REPO, Made, commits, send
from publish.repos import LARGE_BYTES, TOKEN, Fault
from publish.server import HubServer
from train.trained import Trained

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub passes files to httpx2 by a deprecated name.
    "ignore:Use 'content=:DeprecationWarning"
)

FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
ids, found = torch.arange(6, 54)[None], []
for name in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    assert len(AutoTokenizer.from_pretrained(name)) > 256
    with torch.no_grad():
        found.append(model(input_ids=ids).logits)
torch.save(found, sys.argv[1])
"""


def push(made: Made, *options: str) -> int:
    return main([str(made.run.root), "--repo", REPO, *options])


def weights_bytes(hub: HubServer) -> int:
    repo = hub.repos[REPO]
    return repo.commits[repo.branches["main"]]["model.safetensors"].size


def test_a_push_creates_a_private_repository_with_weights_and_card(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(made) == ExitCode.DONE
    repo = hub.repos[REPO]
    files = repo.commits[repo.branches["main"]]
    assert repo.private
    assert set(files) > FILES
    assert files["model.safetensors"].large
    assert hub.content(files["README.md"]).startswith(b"---\n")
    assert commits(hub) == ["Step 2"]
    assert f"/{REPO}/commit/{repo.branches['main']}" in capsys.readouterr().out
    spool = Spool.of(made.run)
    assert made.run.spooled_steps == []
    assert [(sent.push.step, sent.commit) for sent in spool.sent()] == [(2, repo.branches["main"])]
    assert TOKEN not in spool.sent_file.read_text()


def test_a_pushed_model_loads_by_name_with_the_logits_of_the_local_export(
    made: Made, hub: HubServer, trained: Trained, tmp_path: Path
) -> None:
    assert push(made) == ExitCode.DONE
    export(made.run, tmp_path / "local", checkpoint="2")
    argv = [sys.executable, "-c", LOAD, str(tmp_path / "logits.pt"), REPO, str(tmp_path / "local")]
    done = subprocess.run(argv, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert hub.count("GET", "/model.safetensors") == 1
    pushed, local = torch.load(tmp_path / "logits.pt")
    assert torch.equal(pushed, local)
    # The recipe's type is bfloat16, so it is rounded once.
    torch.testing.assert_close(pushed, trained.logits, atol=0.05, rtol=0.05)


def test_large_files_are_sent_in_the_parts_that_the_server_asks_for(ready: RunDir, hub: HubServer) -> None:
    hub.part_bytes = LARGE_BYTES
    assert send(ready) == ExitCode.DONE
    assert hub.count("PUT", "/storage/") == -(-weights_bytes(hub) // LARGE_BYTES) > 2
    assert hub.count("POST", "/complete/") == 1


def test_after_a_failed_commit_weights_are_not_sent_again(
    ready: RunDir, hub: HubServer, naps: list[float]
) -> None:
    hub.faults.append(Fault("POST", "/commit/", times=2, status=500))
    assert send(ready) == ExitCode.DONE
    assert hub.count("POST", "/commit/") == 3
    assert hub.sent_bytes() == weights_bytes(hub)
    assert len(naps) == 2
    assert 2 <= naps[0] <= 4 <= naps[1] <= 6


def test_a_commit_whose_response_was_lost_is_found_and_not_repeated(
    ready: RunDir, hub: HubServer, naps: list[float]
) -> None:
    hub.faults.append(Fault("POST", "/commit/", serve_first=True))
    assert send(ready) == ExitCode.DONE
    assert commits(hub) == ["Step 2"]
    assert Spool.of(ready).sent()[0].commit == hub.repos[REPO].branches["main"]


def test_an_interrupted_upload_is_restarted(ready: RunDir, hub: HubServer, naps: list[float]) -> None:
    hub.faults.append(Fault("PUT", "/storage/", times=2, cut_after=50_000))
    assert send(ready) == ExitCode.DONE
    assert hub.sent_bytes() == weights_bytes(hub) + 2 * 50_000


@pytest.mark.parametrize("path", ["/api/repos/create", "/preupload/", "/objects/batch"])
def test_retry_after_is_respected(path: str, ready: RunDir, hub: HubServer, naps: list[float]) -> None:
    hub.faults.append(Fault("POST", path, status=429, headers={"Retry-After": "70"}))
    assert send(ready) == ExitCode.DONE
    assert max(naps) >= 70


def test_after_server_errors_a_push_waits_in_the_spool_and_is_sent_later(
    ready: RunDir, hub: HubServer, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("POST", "/api/repos/create", times=99, status=503))
    assert send(ready) == ExitCode.STOPPED
    later = f"gemfit push --spooled {ready.root}"
    assert later in capsys.readouterr().out
    assert hub.count("POST", "/api/repos/create") == 5
    assert ready.spooled_steps == [2]
    hub.faults.clear()
    assert send(ready, "--json") == ExitCode.DONE
    printed = json.loads(capsys.readouterr().out)
    assert [sent["step"] for sent in printed[0]["sent"]] == [2]
    assert commits(hub) == ["Step 2"]
    assert not Spool.of(ready).folder(2).exists()


def test_a_stalled_server_times_out(
    ready: RunDir, hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "READ_SECONDS", 0.1)
    hub.faults.append(Fault("POST", "/api/repos/create", times=99, stall_seconds=30))
    assert send(ready, "--json") == ExitCode.STOPPED
    assert ready.spooled_steps == [2]


def test_a_wrong_token_is_reported_with_endpoint_and_repository_and_not_retried(
    made: Made, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert push(made) == ExitCode.USER_ERROR
    words = capsys.readouterr().err
    assert hub.url in words
    assert REPO in words
    assert "hf auth login" in words
    assert "hf_wrong" not in words
    assert len(hub.requests) - hub.count("GET", "/api/agent-harnesses") == 1
    assert not hub.repos


def test_without_a_token_the_error_says_how_to_log_in(
    made: Made, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push(made) == ExitCode.USER_ERROR
    assert "hf auth login" in capsys.readouterr().err
    assert made.run.spooled_steps == []


def test_a_repository_without_write_permission_leaves_nothing_in_the_spool(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(made.run.root), "--repo", "others/kind"]) == ExitCode.USER_ERROR
    assert "write permission" in capsys.readouterr().err
    assert made.run.spooled_steps == []
    assert hub.count("POST", "/api/repos/create") == 1


def test_without_a_network_a_push_is_exported_and_sent_later(
    made: Made, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert push(made) == ExitCode.STOPPED
    assert "HF_HUB_OFFLINE" in capsys.readouterr().out
    assert not hub.requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for folder in made.run.committed():  # retention removes the checkpoint meanwhile
        folder.rename(folder.with_name(f"gone-{folder.name}"))
    assert send(made.run) == ExitCode.DONE
    assert commits(hub) == ["Step 2"]


def test_a_step_is_sent_once_unless_again_is_given(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(made) == ExitCode.DONE
    before = len(hub.requests)
    assert push(made) == ExitCode.DONE
    assert len(hub.requests) == before
    assert "sent to user/kind before" in capsys.readouterr().out
    assert push(made, "--again", "--message", "A better card") == ExitCode.DONE
    assert hub.sent_bytes() == weights_bytes(hub)


def test_weights_under_other_names_are_removed(made: Made, hub: HubServer) -> None:
    assert push(made) == ExitCode.DONE
    repo = hub.repos[REPO]
    files = repo.commits[repo.branches["main"]]
    files |= {"model-00001-of-00002.safetensors": files["model.safetensors"], "notes.txt": files["README.md"]}
    made.save(4)
    assert push(made) == ExitCode.DONE
    now = repo.commits[repo.branches["main"]]
    assert [name for name in now if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "notes.txt" in now


def test_a_dry_run_lists_all_files_and_sends_nothing(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(made, "--dry-run", "--json") == ExitCode.DONE
    listed = json.loads(capsys.readouterr().out)
    assert {row["path"] for row in listed["files"]} > FILES
    assert all(row["bytes"] > 0 for row in listed["files"])
    assert not hub.requests
    assert list(made.run.spool.iterdir()) == []


def test_a_changed_export_is_not_sent(
    ready: RunDir, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Spool.files(Spool.of(ready).folder(2)) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert send(ready) == ExitCode.USER_ERROR
    assert "model.safetensors has changed since it was exported" in capsys.readouterr().err
    assert not hub.repos


def test_best_is_the_checkpoint_of_lowest_validation_loss(made: Made, hub: HubServer) -> None:
    for step, loss in ((4, 3.0), (6, 2.0), (8, 2.5)):
        made.save(step, loss)
    assert push(made, "--checkpoint", "best") == ExitCode.DONE
    assert push(made, "--checkpoint", "latest", "--public") == ExitCode.DONE
    assert commits(hub) == ["Step 6", "Step 8"]
    assert hub.repos[REPO].private  # an existing repository keeps its visibility


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checkpoints of which every byte was read and compared, in order."""
    names: list[str] = []

    def noted(folder: Path, manifest: CheckpointManifest) -> str | None:
        names.append(folder.name)
        return find_damage(folder, manifest)

    monkeypatch.setattr(store, "find_damage", noted)
    return names


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--checkpoint", "2")])
def test_a_checkpoint_is_verified_once(
    options: tuple[str, ...], made: Made, hub: HubServer, verified: list[str]
) -> None:
    assert push(made, *options) == ExitCode.DONE
    assert verified == ["step-00000002"]


def test_a_checkpoint_that_was_replaced_after_it_was_verified_is_verified_again(
    made: Made, verified: list[str], tmp_path: Path
) -> None:
    before = resolve_trained(made.run, "latest")
    made.save(2, 1.5)
    export(made.run, tmp_path / "model", verified=before)
    assert verified == ["step-00000002"] * 2


def test_an_unknown_step_is_reported_with_the_saved_ones(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(made, "--checkpoint", "7") == ExitCode.USER_ERROR
    assert "steps saved: 2" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_damaged_checkpoint_of_a_step_is_not_pushed(
    options: tuple[str, ...], made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    next(made.run.checkpoint(2).glob("*.distcp")).write_bytes(b"damaged")
    assert push(made, "--checkpoint", "2", *options) == ExitCode.USER_ERROR
    assert "is damaged" in capsys.readouterr().err
    assert made.run.spooled_steps == []
    assert REPO not in hub.repos


def test_a_damaged_checkpoint_does_not_stop_other_pushes(
    made: Made, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made.save(4)
    spool, recipe = Spool.of(made.run), HubRecipe(repo=REPO, push="every_save", tag=True)
    for step in (2, 4):
        spool.add(push_of_step(recipe, step))
    next(made.run.checkpoint(2).glob("*.distcp")).write_bytes(b"damaged")
    assert send(made.run) == ExitCode.USER_ERROR
    assert "is damaged" in capsys.readouterr().err
    assert made.run.spooled_steps == [2]
    assert hub.repos[REPO].tags == {"step-4": hub.repos[REPO].branches["main"]}


def test_pushing_a_step_again_moves_its_tag(made: Made, hub: HubServer) -> None:
    spool, recipe = Spool.of(made.run), HubRecipe(repo=REPO, push="every_save", tag=True, branch="trial")
    tagged = []
    for step in (4, 4):
        made.save(step)
        spool.add(push_of_step(recipe, step))
        assert send(made.run) == ExitCode.DONE
        tagged.append(hub.repos[REPO].tags["step-4"])
    assert tagged[0] != tagged[1] == hub.repos[REPO].branches["trial"]
    assert hub.repos[REPO].commits[hub.repos[REPO].branches["main"]] == {}
