"""Tiny runs for the benchmarks of checkpoints: some 40,000 parameters on the sample conversations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack

Settings: TypeAlias = Mapping[str, Any]

SAMPLE = Path(__file__).parents[1] / "examples" / "conversations.jsonl"
CONVERSATIONS = 24

# Odd sizes, so that ZeRO's cuts fall inside rows of matrices.
TINY: Settings = {
    "model.scratch.vocab_size": 384,
    "model.scratch.hidden_size": 40,
    "model.scratch.intermediate_size": 56,
    "model.scratch.num_hidden_layers": 2,
    "model.scratch.num_attention_heads": 2,
    "model.scratch.head_dim": 16,
    "model.scratch.sliding_window": 16,
}
COMMON: Settings = {
    "model.dtype": "float32",
    "model.activation_checkpointing": "false",
    "data.seq_len": 64,
    "data.validation_share": 0,
    "optim.warmup_steps": 4,
    "batch.global_batch_size": 8,
    "length.num_epochs": "null",
    "tracking.report_to": "[]",
}


def sample(folder: Path) -> Path:
    """Some of the sample conversations; packs of them are cached in ``folder`` too."""
    os.environ["GEMFIT_CACHE"] = str(folder / "cache")
    path = folder / "conversations.jsonl"
    with SAMPLE.open() as lines:
        path.write_text("".join(itertools.islice(lines, CONVERSATIONS)))
    return path


def make_plan(
    data: Path, strategy: str, ranks: int, *, offload: bool = False, model: Settings = TINY, **settings: Any
) -> Plan:
    """An exact plan for the tiny model, or another; its pack is built on first use."""
    values = {**model, **COMMON} | {name.replace("__", "."): value for name, value in settings.items()}
    request = Request(
        name="debug/cpu-tiny",
        settings=tuple(f"{name}={value}" for name, value in values.items()),
        data=str(data),
        strategy=strategy,
        offload=offload,
    )
    recipe, wanted = request.recipe(), Ranks(nproc=ranks, device="cpu")
    folder = Path(resolve_plan(recipe, wanted).pack.folder)
    ensure_pack(make_pack_job(recipe), folder, force=False, say=lambda line: None)
    return resolve_plan(recipe, wanted)


def steps_of(run: RunDir) -> list[StepRecord]:
    """The records of all steps, in the order in which they were written, over all attempts."""
    lines = run.metrics_file.read_text().splitlines() if run.metrics_file.is_file() else []
    return [StepRecord.model_validate_json(line) for line in lines if '"kind":"step"' in line]
