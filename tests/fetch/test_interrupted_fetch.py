"""Downloads that are interrupted or killed: they end at once, and a repeat completes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from fetch.conftest import MODEL
from fetch.test_fetch import SHARD, fetch
from gemfit.core.module_main import INTERRUPTED
from gemfit.errors import ExitCode
from gemfit.fetch.partial_files import UNTOUCHED_SECONDS, remove_abandoned
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from publish.repos import Fault
from publish.server import HubServer, wait_until


def partial_files() -> list[Path]:
    return list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def snapshot(hub: HubServer) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Content of the files in the cache, and of the same files on the Hub."""
    files = hub.repos[MODEL].commits[hub.repos[MODEL].branches["main"]]
    paths = {path.name: path for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*")}
    here = {name: path.read_bytes() for name, path in paths.items()}
    return here, {name: hub.content(files[name]) for name in here}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_download_ends_at_a_signal_and_a_repeat_completes(
    number: signal.Signals, hub: HubServer, tmp_path: Path
) -> None:
    hub.faults.append(Fault("GET", SHARD, answer_bytes=70_000))
    stalled = Fault("GET", SHARD, times=9, stall_seconds=60)
    hub.faults.append(stalled)
    path = tmp_path / "recipe.json"
    path.write_text(Recipe(model=ModelRecipe(id=MODEL)).to_json())
    command = [sys.executable, "-m", "gemfit.fetch", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        wait_until(lambda: stalled.times < 9, 60)
        assert partial_files()
        process.send_signal(number)
        said = process.stderr.read()
    assert stalled.times == 8, "it went on downloading"
    if number == signal.SIGKILL:
        assert process.returncode == -number
        for partial in partial_files():
            os.utime(partial, times=(0, 0))
    else:
        assert process.returncode == INTERRUPTED
        assert said.endswith("interrupted\n")
        assert not partial_files()
    hub.faults.clear()
    assert fetch(tmp_path) == ExitCode.DONE
    here, there = snapshot(hub)
    assert here == there
    assert not partial_files()


@pytest.mark.parametrize("whose", ["another process", "a download now", "nobody"])
def test_partial_files_are_removed_when_they_are_nobodys(whose: str, tmp_path: Path) -> None:
    partial = tmp_path / "models--a--b" / "blobs" / "0123.89ab.incomplete"
    lock = tmp_path / ".locks" / "models--a--b" / "0123.lock"
    for path in (partial, lock):
        path.parent.mkdir(parents=True)
        path.touch()
    then = time.time() - UNTOUCHED_SECONDS - (1 if whose != "a download now" else -60)
    os.utime(partial, times=(then, then))
    with lock.open("a") as stream:
        if whose == "another process":
            fcntl.flock(stream, fcntl.LOCK_EX)
        remove_abandoned(tmp_path, "models--a--b")
    assert partial.exists() == (whose != "nobody")
