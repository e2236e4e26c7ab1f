"""Seconds from the command to the end of the first step of a resume: ours against a plain HF Trainer.

    python benchmarks/first_step.py [--rounds 5] [--nproc 1] [--json]

Both resume the same tiny Gemma 3 (2 million parameters, CPU, 8 rows of 512 tokens per step) from a
checkpoint, in turn: `gemfit resume`, which verifies the checkpoint and tests itself, and a script of 30 lines
with HF ``Trainer`` under ``accelerate launch``, which reads rows that are tokenized already. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
FIRST, ROWS, SEQ_LEN, VOCABULARY = 2, 8, 512, 2048
"""Steps before the checkpoint, rows of a step, their length, and tokens of the vocabulary."""

PEER = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Trainer, TrainerCallback, TrainingArguments

rows, out, last, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class Stamp(TrainerCallback):
    done = False
    def on_step_end(self, args, state, control, **kwargs):
        if not self.done:
            self.done = True
            Path(out, f"stamp-{last}").write_text(repr(time.time()))

tokens = torch.from_numpy(np.load(rows))
data = [{"input_ids": row, "labels": row} for row in tokens]
config = Gemma3TextConfig(
    vocab_size=2048, hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=128,
)
arguments = TrainingArguments(
    output_dir=out, max_steps=last, per_device_train_batch_size=size, save_steps=last, report_to="none",
    use_cpu=True, disable_tqdm=True, logging_steps=1, ddp_find_unused_parameters=False,
)
Trainer(model=Gemma3ForCausalLM(config), args=arguments, train_dataset=data, callbacks=[Stamp()]).train(
    resume_from_checkpoint=last > 2
)
"""


def run(argv: list[str], codes: tuple[int, ...] = (0,)) -> float:
    """Start a command, wait for its end, and return when it was started, in seconds since the Unix epoch."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    began = time.time()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        sys.exit(f"{argv}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return began


class Ours:
    """A run that was stopped after ``FIRST`` steps, resumed in copies of its folder."""

    def __init__(self, folder: Path, nproc: int) -> None:
        self.folder, self.origin = folder, folder / "ours"
        self.gemfit = [sys.executable, "-m", "gemfit_launch.cli"]
        data = ["--data", str(ROOT / "examples" / "conversations.jsonl")]
        batch = ["--set", f"batch.global_batch_size={ROWS}", "--set", f"data.seq_len={SEQ_LEN}"]
        place = ["--nproc", str(nproc), "--run", str(self.origin), "--stop-at", str(FIRST)]
        run([*self.gemfit, "run", "debug/cpu-tiny", *data, *batch, *place], (75,))

    def resume(self, index: int) -> tuple[float, dict[str, float]]:
        """Seconds to the end of the first step, and their parts as the run has recorded them."""
        copy = self.folder / f"ours-{index}"
        shutil.copytree(self.origin, copy)
        began = run([*self.gemfit, "resume", str(copy), "--stop-at", str(FIRST + 1)], (75,))
        records: list[dict[str, Any]] = list(map(json.loads, (copy / "metrics.jsonl").open()))
        record = [one for one in records if one["kind"] == "start"][-1]
        return record["time"] - began, record["parts"]


class Peer:
    """The same with HF ``Trainer``."""

    def __init__(self, folder: Path, nproc: int) -> None:
        self.folder, self.origin, self.nproc = folder, folder / "peer", nproc
        self.script, self.rows = folder / "peer.py", folder / "rows.npy"
        self.script.write_text(PEER)
        np.save(self.rows, np.random.default_rng(0).integers(0, VOCABULARY, (64 * ROWS, SEQ_LEN)))
        run(self.command(self.origin, FIRST))

    def command(self, out: Path, last: int) -> list[str]:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
        launch += ["--num_processes", str(self.nproc), "--mixed_precision", "no", "--dynamo_backend", "no"]
        if self.nproc > 1:
            launch += ["--main_process_port", "29511"]
        return [*launch, str(self.script), str(self.rows), str(out), str(last), str(ROWS // self.nproc)]

    def resume(self, index: int) -> tuple[float, dict[str, float]]:
        """Seconds to the end of the first step."""
        copy = self.folder / f"peer-{index}"
        shutil.copytree(self.origin, copy)
        began = run(self.command(copy, FIRST + 1))
        return float((copy / f"stamp-{FIRST + 1}").read_text()) - began, {}


def measure(rounds: int, nproc: int, folder: Path) -> dict[str, Any]:
    """Medians, their ratio and the median of each part of ours."""
    ours, peer = Ours(folder, nproc), Peer(folder, nproc)
    mine, theirs = [], []
    for index in range(rounds):
        mine.append(ours.resume(index))
        theirs.append(peer.resume(index)[0])
    median = statistics.median(seconds for seconds, _ in mine)
    parts = {name: statistics.median(found[name] for _, found in mine) for name in mine[0][1]}
    trainer = statistics.median(theirs)
    all_of = {"all_ours": [seconds for seconds, _ in mine], "all_trainer": theirs}
    return {"ours": median, "trainer": trainer, "ratio": median / trainer, "parts": parts, **all_of}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.rounds, arguments.nproc, Path(folder))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print("| ours, s | HF Trainer, s | ratio |\n|---|---|---|")
    print(f"| {found['ours']:.1f} | {found['trainer']:.1f} | {found['ratio']:.2f} |\n")
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["parts"].items()))


if __name__ == "__main__":
    main()
