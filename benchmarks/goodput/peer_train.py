"""What a careful user of HF Trainer writes: tokenized rows, regular checkpoints, resume from the last.

    accelerate launch peer_train.py FOLDER

`FOLDER` holds ``rows.npz`` and ``settings.json``; checkpoints and ``steps.jsonl`` are written there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

FOLDER = Path(sys.argv[1])
CHECKPOINTS = FOLDER / "checkpoints"
SETTINGS: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())


class StepLog(TrainerCallback):
    """One line for each step, for the benchmark."""

    attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
    began = ended = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs or not state.is_world_process_zero:
            return
        line = {"attempt": self.attempt, "step": state.global_step, "time": self.ended}
        line |= {"seconds": self.ended - self.began, "loss": logs["loss"]}
        with (FOLDER / "steps.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def last_checkpoint() -> str | None:
    """The newest checkpoint that is complete: the trainer writes its state last."""
    folders = sorted(CHECKPOINTS.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [str(path) for path in folders if (path / "trainer_state.json").is_file()]
    return complete[-1] if complete else None


def main() -> None:
    set_seed(SETTINGS["seed"])
    arrays = np.load(FOLDER / "rows.npz")
    rows = [
        {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        for ids, labels in zip(arrays["input_ids"], arrays["labels"], strict=True)
    ]
    model = Gemma3ForCausalLM(Gemma3TextConfig(**SETTINGS["model"]))
    arguments = TrainingArguments(
        output_dir=str(CHECKPOINTS),
        max_steps=SETTINGS["max_steps"],
        per_device_train_batch_size=SETTINGS["per_device_batch_size"],
        learning_rate=SETTINGS["learning_rate"],
        warmup_steps=SETTINGS["warmup_steps"],
        save_steps=SETTINGS["save_steps"],
        save_total_limit=2,
        seed=SETTINGS["seed"],
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[StepLog()])
    trainer.train(resume_from_checkpoint=last_checkpoint())


if __name__ == "__main__":
    main()
