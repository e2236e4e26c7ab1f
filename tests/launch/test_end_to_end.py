"""The whole way by command line, with real ranks: pack, run, stop, resume, status, export, generate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from damage.run_files import unknown_files
from gemfit.schemas.attempt_outcome import AttemptOutcome

SAMPLE = Path(__file__).parents[2] / "examples" / "conversations.jsonl"
SMALL = {
    "model.scratch.hidden_size": "32",
    "model.scratch.intermediate_size": "64",
    "model.scratch.vocab_size": "512",
    "data.seq_len": "64",
    "batch.global_batch_size": "4",
    "length.num_epochs": "null",
    "length.max_steps": "6",
    "evaluation.every_steps": "6",
}


@pytest.mark.dist
def test_a_run_is_packed_stopped_resumed_exported_and_answers(tmp_path: Path) -> None:
    conversations = tmp_path / "conversations.jsonl"
    conversations.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[:40]))
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    recipe = ["debug/cpu-tiny", "--data", "conversations.jsonl", *settings]
    ranks = ["--nproc", "2", "--device", "cpu"]

    stopped = gemfit(tmp_path, "run", *recipe, *ranks, "--strategy", "fsdp2", "--run", "r", "--stop-at", "3")
    assert stopped.returncode == 75, stopped.stderr + log(tmp_path, 1)
    assert "gemfit resume r" in stopped.stdout
    again = gemfit(tmp_path, "pack", *recipe)
    assert "already packed" in again.stderr

    resumed = gemfit(tmp_path, "resume", "r")
    assert resumed.returncode == 0, resumed.stderr + log(tmp_path, 2)
    assert "step 6/6" in resumed.stdout
    (status,) = json.loads(gemfit(tmp_path, "status", "r", "--json").stdout)
    assert (status["state"], status["step"], status["attempt"]) == (AttemptOutcome.COMPLETED, 6, 2)
    assert status["eval_loss"] > 0

    assert gemfit(tmp_path, "export", "r").returncode == 0
    assert unknown_files(tmp_path / "r") == []  # each kind is among those that are tried damaged
    reply = gemfit(tmp_path, "chat", "r", "--message", "I cannot sleep.", "--max-new-tokens", "4")
    assert reply.returncode == 0, reply.stderr
    assert gemfit(tmp_path, "status", "r", "--plot", "loss.png").returncode == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def gemfit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemfit_launch.cli", *arguments],
        cwd=folder,
        env=os.environ | {"GEMFIT_CACHE": "cache"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def log(folder: Path, attempt: int) -> str:
    path = folder / "r" / "logs" / f"attempt-{attempt}.log"
    return path.read_text() if path.is_file() else "there is no log"
