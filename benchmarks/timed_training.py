"""One training in a process of its own, timed by the same clock: gemfit, TRL or plain padding.

    python benchmarks/timed_training.py {ours|trl|padded} PLAN.json --out RESULT.json [--peers FOLDER]

All three take the model, the batch and the optimizer of one plan, and its pack: gemfit and TRL's
``SFTTrainer`` the same rows in the same order; `padded` is ``transformers.Trainer`` with one document per
row, padded to the row's length, with an attention mask, as most scripts do. Nothing is evaluated or saved. A
step is timed from the end of the one before, so that loading and logging count. For compare_trl.py,
packed_against_padded.py and gpu_check.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import Row, open_pack
from gemfit.data.pack.shuffle import EMPTY
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.train.checks import selftest
from gemfit.train.data.batches import RowSchedule
from gemfit.train.distributed.cpu_backend import leave, use_cpu_backend
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.arguments import on_one_gpu, optimization_settings
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.main import CALLBACKS
from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.build import load_matching_tokenizer, load_model, open_model
from gemfit.train.trainer_view import TrainerHooks

PEERS = ""
"""Where TRL is installed (`pip install --no-deps --target FOLDER trl`); empty: in gemfit's environment."""
HERE = Path(__file__).resolve()


@dataclass(frozen=True, slots=True)
class Work:
    """The tokens of one optimizer step."""

    tokens: int
    trained: int


class Clock(TrainerCallback):
    """Wall and CPU time at the end of each step, and memory while they last."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[tuple[float, float]]()
        self.held = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.held = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.ends.append((time.perf_counter(), used.ru_utime + used.ru_stime))

    def result(self, work: list[Work], losses: list[float]) -> dict[str, Any]:
        """Of every step but the first, which begins before the clock does."""
        pairs = zip(self.ends, self.ends[1:], work[1:], strict=False)
        steps = [
            {"wall": b[0] - a[0], "cpu": b[1] - a[1], "tokens": w.tokens, "trained": w.trained}
            for a, b, w in pairs
        ]
        memory = {"peak_bytes": _resident("VmHWM"), "held_bytes": self.held}
        if self.device.type == "cuda":
            memory |= {
                "gpu_peak_bytes": torch.cuda.max_memory_allocated(self.device),
                "gpu_reserved_bytes": torch.cuda.max_memory_reserved(self.device),
                "gpu": torch.cuda.get_device_name(self.device),
            }
        return {"steps": steps, "losses": losses} | memory


class Ours(PackedTrainer):
    """Without the checkpoint after the last step."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        pass


class Summing(Trainer):
    """Takes its rows in order and keeps the loss of every step to the last digit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums = [0.0]
        self.add_callback(_NextStep(self.sums))

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        self.sums[-1] += (found[0] if isinstance(found, tuple) else found).item()
        return found

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class _NextStep(TrainerCallback):
    def __init__(self, sums: list[float]) -> None:
        self.sums = sums

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.sums.append(0.0)


def train_ours(plan: Plan, scratch: Path) -> dict[str, Any]:
    """As ``gemfit.train`` does."""
    device = torch.device(plan.topology.device)
    prepare_attention(device.type)  # or another kernel would be measured than runs
    if device.type == "cpu":
        use_cpu_backend()
    run = RunDir.create(scratch / "run", plan)
    tokenizer = load_matching_tokenizer(plan)
    stop, opened = Stop(run, None, device), open_model(plan.recipe, tokenizer)
    hooks = TrainerHooks(callbacks=CALLBACKS, self_test=selftest.check)
    trainer = Ours(run=run, plan=plan, attempt=1, opened=opened, tokenizer=tokenizer, stop=stop, hooks=hooks)
    clock = Clock(trainer.args.device)
    trainer.add_callback(clock)
    with trainer.saver:
        trainer.train()
    lines = map(json.loads, run.metrics_file.read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    return clock.result(list(_work(trainer.schedule)), losses)


def train_trl(plan: Plan, scratch: Path) -> dict[str, Any]:
    """TRL's ``SFTTrainer`` on the rows of the plan's pack, in the plan's order."""
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415  (installed apart, and wanted here only)

    class Sft(Summing, SFTTrainer):
        """TRL's trainer that records its losses."""

    tokenizer = load_matching_tokenizer(plan)
    schedule = RowSchedule(plan, open_pack(Path(plan.pack.folder), "train"))
    order = [int(row) for step in range(plan.steps.total) for row in schedule.rows_of(step) if row != EMPTY]
    config = SFTConfig(
        packing=True,  # its collator then makes position ids of `seq_lengths`, and no mask
        max_length=plan.batch.seq_len,
        dataset_kwargs={"skip_prepare_dataset": True},
        **_arguments(plan, scratch),
    )
    arguments = on_one_gpu(config)
    rows = datasets.Dataset.from_list([_unpadded(schedule.rows[row]) for row in order])
    trainer = Sft(
        model=_plain(plan, tokenizer), args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    return _timed(trainer, list(_work(schedule)))


def train_padded(plan: Plan, scratch: Path) -> dict[str, Any]:
    """``transformers.Trainer``, one document a row, padded to the row's length."""
    tokenizer = load_matching_tokenizer(plan)
    rows, length, pad = open_pack(Path(plan.pack.folder), "train"), plan.batch.seq_len, pad_id(tokenizer)
    padded = [
        {
            "input_ids": ids + [pad] * (length - len(ids)),
            "labels": labels + [IGNORED] * (length - len(ids)),
            "attention_mask": [1] * len(ids) + [0] * (length - len(ids)),
        }
        for number in range(len(rows))
        for ids, labels in _documents(rows[number])
    ]
    wanted = plan.steps.total * plan.batch.global_batch_size
    fed = [padded[number % len(padded)] for number in range(wanted)]
    arguments = on_one_gpu(TrainingArguments(**_arguments(plan, scratch)))
    trainer = Summing(
        model=_plain(plan, tokenizer), args=arguments, train_dataset=datasets.Dataset.from_list(fed)
    )
    counted = [
        Work(sum(row["attention_mask"]), sum(label != IGNORED for label in row["labels"])) for row in fed
    ]
    each = plan.batch.global_batch_size
    sums = [counted[start : start + each] for start in range(0, wanted, each)]
    work = [Work(sum(w.tokens for w in step), sum(w.trained for w in step)) for step in sums]
    return _timed(trainer, work) | {"documents": len(padded)}


WAYS = {"ours": train_ours, "trl": train_trl, "padded": train_padded}


def train_apart(who: str, plan: Plan, *, threads: int | None = None, peers: str = PEERS) -> dict[str, Any]:
    """What a process of its own measures; its words where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        plan_file, out = Path(scratch) / "plan.json", Path(scratch) / "out.json"
        plan_file.write_text(plan.to_json())
        argv = [sys.executable, str(HERE), who, str(plan_file), "--out", str(out), "--peers", peers]
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(argv, env=os.environ | limits, capture_output=True, text=True, check=False)
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{who}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _arguments(plan: Plan, scratch: Path) -> dict[str, Any]:
    """``TrainingArguments`` for trainers other than gemfit's: the same optimization."""
    return optimization_settings(plan) | {
        "output_dir": str(scratch / "out"),
        "gradient_checkpointing": plan.recipe.model.activation_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _plain(plan: Plan, tokenizer: Any) -> Any:
    """The model as transformers makes it: the class without what gemfit adds, the same weights in float32."""
    ours = load_model(plan.recipe, tokenizer)
    base = ours.get_base_model() if plan.recipe.model.lora else ours
    plain = next(cls for cls in type(base).__mro__ if cls.__module__.startswith("transformers."))
    base.__class__ = plain  # the same modules and weights; only `forward` differs
    if plan.recipe.model.activation_checkpointing:
        ours.gradient_checkpointing_disable()  # the trainer switches it on
    return ours


def _timed(trainer: Summing, work: list[Work]) -> dict[str, Any]:
    clock = Clock(trainer.args.device)
    trainer.add_callback(clock)
    trainer.train()
    return clock.result(work, trainer.sums[:-1])


def _work(schedule: RowSchedule) -> Iterator[Work]:
    for step in range(schedule.plan.steps.total):
        yield Work(schedule.tokens(step), schedule.trained_tokens(step))


def _unpadded(row: Row) -> dict[str, list[int]]:
    real = int(row.seq_lengths.sum())
    return {
        "input_ids": row.input_ids[:real].tolist(),
        "labels": row.labels[:real].tolist(),
        "seq_lengths": row.seq_lengths.tolist(),
    }


def _documents(row: Row) -> Iterator[tuple[list[int], list[int]]]:
    start = 0
    for length in row.seq_lengths.tolist():
        yield row.input_ids[start : start + length].tolist(), row.labels[start : start + length].tolist()
        start += length


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> int:
    """Train in one way, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=WAYS)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", default=PEERS)
    options = parser.parse_args()
    disable_progress_bar()
    sys.path += [options.peers] if options.peers else []
    with tempfile.TemporaryDirectory() as scratch:
        found = WAYS[options.who](Plan.read(options.plan), Path(scratch))
    options.out.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    leave(main())
