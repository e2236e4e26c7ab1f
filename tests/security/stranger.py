"""A run folder from a stranger: what its attacks have in common."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from data.conftest import random_conversations, sentence
from data.handmade import handmade
from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import digest_files
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.manifest import CheckpointManifest
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.plan import PackReference, Topology
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, write
from gemfit_launch.cli import main
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
HTML = "<script>alert(1)</script>"
STEP = 2
SHOWN = "⟨U+001B⟩"


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self._command = f"touch {victim}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def make_stranger(root: Path) -> Path:
    """Write ``root/run`` and ``root/pack``; returns ``root``."""
    rng = random.Random(1)
    tokenizer = train_tokenizer([sentence(rng, 12) + "\nuser assistant system" for _ in range(200)], 400)
    handmade(tokenizer, random_conversations(6)).write(root / "pack")
    plan = make_plan(
        Request(name="debug/cpu-tiny").recipe(),
        topology=Topology(nodes=1, ranks_per_node=1, device="cpu"),
        pack=PackReference(fingerprint="p" * 32, folder=str(root / "pack")),
        rows=100,
        rows_are_packed=True,
    )
    run = RunDir.create(root / "run", plan)
    made = StepRecord(
        attempt=1,
        step=1,
        epoch=0.0,
        loss=1.0,
        learning_rate=0.1,
        grad_norm=None,
        tokens_per_second=1.0,
        time=1.0,
        rows_digest="",
    )
    run.metrics_file.write_text(made.model_dump_json() + "\n")
    run.begin_attempt()
    staging = store.begin(run, STEP, 1, bytes_needed=1)
    write({f"{WEIGHT_PREFIX}w": torch.zeros(2)}, staging)
    manifest = CheckpointManifest(
        step=STEP,
        cursor_row=0,
        world_size=1,
        strategy="single",
        plan_digest=plan.digest,
        training=plan.training_identity(),
        attempt=1,
        files=tuple(digest_files(staging, sorted(staging.iterdir()))),
    )
    store.commit(run, staging, manifest, keep=9)
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=1, reason="asked to stop"))
    return root


def change(path: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
