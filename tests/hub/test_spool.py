"""What waits in a spool stays there, whatever goes wrong with what comes after."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode, UserError
from gemfit.publish.push import main
from gemfit.publish.retry import Patience
from gemfit.publish.send import deliver_spool
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.upload.background_uploader import Pusher
from gemfit.upload.spool import Spool, wanted_push
from hub.conftest import REPO, Made
from hub.server import HubServer
from hub.test_beside import Scripted, plan_with

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub hands files to httpx2 by the older of two names.
    "ignore:Use 'content=:DeprecationWarning"
)

EVERY_SAVE = HubRecipe(repo=REPO, push="every_save")


def test_a_broken_spool_does_not_reach_the_training(made: Made) -> None:
    class Told(Scripted):
        script = 'print("{\\"sent\\": [], \\"refused\\": [], \\"reason\\": \\"\\"}")'

    broken = Spool.of(made.run).folder(2)
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    pusher: Pusher = Told(made.run, plan_with(made.run, EVERY_SAVE))
    pusher.begin()
    pusher.finish(20)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Spool.of(made.run).staged()


@pytest.mark.parametrize("trouble", ["damaged", "gone"])
def test_a_push_that_waits_is_kept_until_a_newer_one_is_staged(
    made: Made, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("gemfit.publish.send.is_offline_mode", lambda: True)
    spool, newer = Spool.of(made.run), made.run.checkpoint(4)
    spool.want(wanted_push(EVERY_SAVE, 2))
    assert deliver_spool(made.run, Patience()).waiting == [2]
    made.save(4)
    spool.want(wanted_push(EVERY_SAVE, 4))
    if trouble == "gone":
        newer.rename(newer.with_name("elsewhere"))
    else:
        next(newer.glob("*.distcp")).write_bytes(b"damaged")
    deliver_spool(made.run, Patience())
    assert [staged.push.step for staged in spool.staged()] == [2]


def test_a_push_that_is_staged_anew_and_fails_leaves_the_one_before(
    ready: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("gemfit.publish.send.is_offline_mode", lambda: True)
    monkeypatch.setattr("gemfit.publish.stage.export", full)
    Spool.of(ready).want(wanted_push(EVERY_SAVE, 2))
    assert deliver_spool(ready, Patience()).refused == ["the disk is full"]
    assert [staged.push.step for staged in Spool.of(ready).staged()] == [2]


def test_a_push_elsewhere_does_not_take_the_place_of_one_that_waits(
    ready: RunDir, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(ready.root), "--repo", "others/kind"]) == ExitCode.USER_ERROR
    assert f"step 2 waits to be sent to {REPO} ('Step 2') already" in capsys.readouterr().err
    assert ready.spooled_steps == [2]
    assert not hub.requests
    assert main([str(ready.root), "--repo", REPO]) == ExitCode.DONE  # the very push that waits


def test_a_mistake_with_a_push_that_waits_leaves_it_waiting(
    ready: RunDir, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main([str(ready.root), "--repo", REPO]) == ExitCode.USER_ERROR
    assert ready.spooled_steps == [2]


def test_a_push_leaves_the_card_that_a_person_has_made(made: Made, hub: HubServer, tmp_path: Path) -> None:
    made.run.card_file.parent.mkdir()
    made.run.card_file.write_text("mine")
    assert main([str(made.run.root), "--repo", REPO, "--dry-run"]) == ExitCode.DONE
    assert main([str(made.run.root), "--repo", REPO]) == ExitCode.DONE
    assert made.run.card_file.read_text() == "mine"
