"""Share of a step that is spent waiting for data, with batches made when asked for and made ahead.

One process trains a tiny model on packed rows, twice over the same steps: a tiny model is the worst case,
because a step is short and its rows are as many as those of a large model.

    python benchmarks/batches_ahead.py [--steps N] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.pack_job import make_pack_job
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack

DATA = Path(__file__).parents[1] / "examples" / "conversations.jsonl"
SETTINGS = {
    "model.scratch.hidden_size": 32,
    "model.scratch.intermediate_size": 64,
    "model.scratch.num_hidden_layers": 2,
    "model.activation_checkpointing": "false",
    "data.seq_len": 1024,
    "batch.global_batch_size": 64,
    "batch.max_per_device_batch_size": 4,
    "length.num_epochs": "null",
    "evaluation.every_steps": 1000,
    "checkpoint.every_steps": 1000,
    "tracking.report_to": "[]",
}
ON_DEMAND = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader
from gemfit.train import trainer
trainer.BatchesAhead = lambda batches, depth, pin: DataLoader(batches, batch_size=None)
from gemfit.train.main import train
train(Path(sys.argv[1]), None)
"""
AHEAD = """
import sys
from pathlib import Path
from gemfit.train.main import train
train(Path(sys.argv[1]), None)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {
        name: measure(code, arguments.steps) for name, code in (("asked for", ON_DEMAND), ("ahead", AHEAD))
    }
    if arguments.json:
        print(json.dumps(found))
        return
    print("| batches made | waits, ms a step | step, ms | share |\n| --- | --- | --- | --- |")
    for name, one in found.items():
        print(f"| {name} | {one['wait_ms']:.2f} | {one['step_ms']:,.0f} | {one['share']:.3%} |")
    assert found["asked for"]["digests"] == found["ahead"]["digests"], "the same rows, whoever makes them"


def measure(code: str, steps: int) -> dict[str, Any]:
    """Medians over all steps but the first, which also waits for the thread to begin."""
    request = Request(
        name="debug/cpu-tiny",
        settings=tuple(f"{key}={value}" for key, value in {**SETTINGS, "length.max_steps": steps}.items()),
        data=str(DATA),
    )
    recipe, ranks = request.recipe(), Ranks(nproc=1, device="cpu")
    ensure_pack(
        make_pack_job(recipe), Path(resolve_plan(recipe, ranks).pack.folder), force=False, say=_nothing
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.create(Path(folder) / "run", resolve_plan(recipe, ranks))
        run.begin_attempt()
        subprocess.run([sys.executable, "-c", code, str(run.root)], check=True, capture_output=True)
        lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    records = [StepRecord.model_validate_json(json.dumps(x)) for x in lines if x["kind"] == "step"][1:]
    waits = [record.data_seconds or 0.0 for record in records]
    took = [later.time - earlier.time for earlier, later in pairwise(records)]
    return {
        "wait_ms": 1e3 * median(waits),
        "step_ms": 1e3 * median(took),
        "share": median(waits) / median(took),
        "digests": [record.rows_digest for record in records],
    }


def _nothing(line: str) -> None:
    pass


if __name__ == "__main__":
    main()
