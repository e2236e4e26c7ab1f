"""The two sides: how each submits its job, and where it records its steps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accounting import DoneStep
from cluster_events import PARTITION

from gemfit.data.pack.reader import open_pack
from realslurm import Cluster

ROOT = Path(__file__).resolve().parents[2]
STEPS = 5000
"""Of the schedule of the learning rate: more than are done."""
SETTINGS = {
    "data.validation_share": "0",
    "batch.global_batch_size": "8",
    "length.num_epochs": "null",
    "length.max_steps": str(STEPS),
    "evaluation.every_steps": str(STEPS),
    "tracking.report_to": "[]",
    "optim.learning_rate": "5e-4",
}
HIDDEN = """\
import sys
sys.modules.update(dict.fromkeys(["bitsandbytes", "deepspeed", "peft", "scipy", "sklearn"]))
"""
"""`sitecustomize` of the peer: as after `pip install torch transformers accelerate datasets`.

transformers and accelerate import these where they are installed: 2 CPU seconds more at each start."""
SITE = {
    "name": "goodput",
    "partition": PARTITION,
    "gpus_per_node": 0,
    "ranks_per_node": 1,
    "cpus_per_node": 2,
    "signal_lead_seconds": 60,
    "env": {"OMP_NUM_THREADS": "1"},
}


class Side(Protocol):
    """A way to train under Slurm."""

    name: str

    def submit(self) -> int:
        """Submit the run; the id of its job."""
        ...

    def steps(self) -> list[DoneStep]:
        """What it has recorded so far."""
        ...


@dataclass(frozen=True)
class OurSide:
    """``gemfit submit``."""

    cluster: Cluster
    folder: Path
    save_steps: int
    name: str = "gemfit"

    def plan(self) -> dict[str, Any]:
        """Pack the rows, which both sides train, and plan for two ranks."""
        self._gemfit("pack", *self._recipe())
        found: dict[str, Any] = json.loads(self._gemfit("plan", *self._recipe(), "--nproc", "2", "--json"))
        return found

    def submit(self) -> int:
        site = self.folder / "site.yaml"
        site.write_text(json.dumps(SITE))  # JSON is YAML
        place = ["--site", str(site), "--nodes", "2", "--run", "run", "--json"]
        return int(json.loads(self._gemfit("submit", *self._recipe(), *place))["job"])

    def steps(self) -> list[DoneStep]:
        found = [line for line in _lines(self.folder / "run" / "metrics.jsonl") if line["kind"] == "step"]
        return [_step(line) for line in found]

    def _recipe(self) -> list[str]:
        settings = SETTINGS | {"checkpoint.every_steps": str(self.save_steps), "checkpoint.keep": "2"}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return ["debug/cpu-tiny", "--data", str(ROOT / "examples" / "conversations.jsonl"), *words]

    def _gemfit(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gemfit_launch.cli", *arguments],
            cwd=self.folder,
            env=self.cluster.environment | {"GEMFIT_CACHE": str(self.folder.parent / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"gemfit {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout


@dataclass(frozen=True)
class PeerSide:
    """``sbatch peer.sbatch``, which runs peer_train.py under ``accelerate launch``."""

    cluster: Cluster
    folder: Path
    plan: Mapping[str, Any]
    save_steps: int
    name: str = "Trainer"

    def submit(self) -> int:
        self._write_input()
        here = Path(__file__).resolve().parent
        options = ["--parsable", f"--partition={PARTITION}", f"--output={self.folder}/job.log"]
        options += [f"--export=ALL,PYTHONPATH={self.folder}"]
        job = ["peer.sbatch", str(self.folder), sys.executable, str(here / "peer_train.py"), "127.0.0.1"]
        return int(self.cluster.call("sbatch", *options, *job, cwd=here))

    def steps(self) -> list[DoneStep]:
        return [_step(line) for line in _lines(self.folder / "steps.jsonl")]

    def _write_input(self) -> None:
        rows, recipe = open_pack(Path(self.plan["pack"]["folder"]), "train"), self.plan["recipe"]
        every = [rows[number] for number in range(len(rows))]
        arrays = {name: np.stack([getattr(row, name) for row in every]) for name in ("input_ids", "labels")}
        np.savez(self.folder / "rows.npz", **{name: array.astype(np.int64) for name, array in arrays.items()})
        model = recipe["model"]["scratch"]
        settings = {
            "model": model | {"query_pre_attn_scalar": model["head_dim"]},
            "seed": recipe["seed"],
            "max_steps": STEPS,
            "save_steps": self.save_steps,
            "per_device_batch_size": self.plan["batch"]["per_device_batch_size"],
            "learning_rate": recipe["optim"]["learning_rate"],
            "warmup_steps": recipe["optim"]["warmup_steps"],
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "sitecustomize.py").write_text(HIDDEN)


def _step(line: dict[str, Any]) -> DoneStep:
    return DoneStep(**{name: line[name] for name in ("attempt", "step", "time", "seconds", "loss")})


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that may be growing, or that a kill has cut."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
