"""Two ranks that push during training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from publish.server import HubServer
from train.conftest import Attempts

Launch = Callable[..., Attempts]


@pytest.mark.slow
@pytest.mark.dist
def test_a_stopped_run_spools_and_the_resumed_run_sends_with_equal_losses(
    fresh_run: Launch, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(tmp_path / "hub") as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        attempts = fresh_run("ddp", 2, hub__repo="user/kind", hub__push="every_save")
        attempts.train(stop_at=3)
        assert attempts.verdict is not None
        assert attempts.verdict.outcome == AttemptOutcome.STOPPED, attempts.log()
        assert f"gemfit push --spooled {attempts.run.root}" in attempts.log()
        assert attempts.run.spooled_steps == [3]
        outcome = attempts.train()
    assert outcome.returncode == 0, attempts.log(2)
    assert attempts.run.spooled_steps == []
    messages = list(hub.repos["user/kind"].messages.values())
    assert messages[-1] == "Step 6"
    assert "step 6: pushed to user/kind" in attempts.log(2)
    assert attempts.losses == launch("ddp", 2).losses
