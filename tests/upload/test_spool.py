"""A push stays in the spool until it is sent or replaced, whatever fails meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode, UserError
from gemfit.publish.push import main
from gemfit.publish.send_spool import send_spool
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.upload.background_uploader import BackgroundUploader
from gemfit.upload.spool import Spool, push_of_step
from publish.conftest import REPO, Made
from publish.server import HubServer
from upload.test_background_uploader import ScriptedUploader, plan_with

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub passes files to httpx2 by a deprecated name.
    "ignore:Use 'content=:DeprecationWarning"
)

EVERY_SAVE = HubRecipe(repo=REPO, push="every_save")


def test_a_broken_spool_does_not_affect_training(made: Made) -> None:
    class NothingSent(ScriptedUploader):
        script = 'print("{\\"sent\\": [], \\"refused\\": [], \\"reason\\": \\"\\"}")'

    broken = Spool.of(made.run).folder(2)
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    uploader: BackgroundUploader = NothingSent(made.run, plan_with(made.run, EVERY_SAVE))
    uploader.begin()
    uploader.finish(20)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Spool.of(made.run).ready()


@pytest.mark.parametrize("fault", ["damaged", "removed"])
def test_a_ready_push_stays_until_a_newer_one_is_exported(
    made: Made, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("gemfit.publish.send_spool.is_offline_mode", lambda: True)
    spool, newer = Spool.of(made.run), made.run.checkpoint(4)
    spool.add(push_of_step(EVERY_SAVE, 2))
    assert send_spool(made.run).waiting == [2]
    made.save(4)
    spool.add(push_of_step(EVERY_SAVE, 4))
    if fault == "removed":
        newer.rename(newer.with_name("elsewhere"))
    else:
        next(newer.glob("*.distcp")).write_bytes(b"damaged")
    send_spool(made.run)
    assert [one.push.step for one in spool.ready()] == [2]


def test_a_failed_new_export_leaves_the_ready_push(ready: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("gemfit.publish.send_spool.is_offline_mode", lambda: True)
    monkeypatch.setattr("gemfit.publish.export_push.export", full)
    Spool.of(ready).add(push_of_step(EVERY_SAVE, 2))
    assert send_spool(ready).refused == ["the disk is full"]
    assert [one.push.step for one in Spool.of(ready).ready()] == [2]


def test_a_push_to_another_repository_does_not_replace_a_waiting_one(
    ready: RunDir, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(ready.root), "--repo", "others/kind"]) == ExitCode.USER_ERROR
    assert f"step 2 waits to be sent to {REPO} ('Step 2') already" in capsys.readouterr().err
    assert ready.spooled_steps == [2]
    assert not hub.requests
    assert main([str(ready.root), "--repo", REPO]) == ExitCode.DONE  # the very push that waits


def test_a_wrong_token_leaves_a_waiting_push_in_the_spool(
    ready: RunDir, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main([str(ready.root), "--repo", REPO]) == ExitCode.USER_ERROR
    assert ready.spooled_steps == [2]


def test_a_push_leaves_an_edited_card_unchanged(made: Made, hub: HubServer, tmp_path: Path) -> None:
    made.run.card_file.parent.mkdir()
    made.run.card_file.write_text("mine")
    assert main([str(made.run.root), "--repo", REPO, "--dry-run"]) == ExitCode.DONE
    assert main([str(made.run.root), "--repo", REPO]) == ExitCode.DONE
    assert made.run.card_file.read_text() == "mine"
