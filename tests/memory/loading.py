"""Host memory that a rank takes for a model's weights: whole on every rank, or read where they belong.

    python tests/memory/loading.py [--strategy fsdp2] [--ranks 2] [--layers 12] [--json]

A model of random weights is saved in bfloat16; then ranks load it and train one step, twice: with the whole
model read by ``from_pretrained`` on every rank and sharded afterwards, and as ``gemfit.train`` does it.
Peaks are the kernel's (VmHWM), less what the process held before it opened the model; pages of the mapped
files count, although the ranks share them. The losses of both ways have to be equal in every bit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked_ranks  # before torch: it sets the number of threads

# isort: split
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.train import main as training
from gemfit.train.collective import rank
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.model.build import OpenedModel, open_model
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.trainer_view import TrainerView
from tiny_runs import make_plan, sample, steps_of

STRATEGIES = ("fsdp2", "zero3", "ddp", "zero2")
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "query_pre_attn_scalar": 128,
}
NO_SCRATCH: dict[str, Any] = {"model.scratch": "null"}
MEBI = 2**20


def save_model(folder: Path, *, layers: int, vocabulary: int) -> int:
    """A model with random weights in ``folder``, in bfloat16; returns its number of parameters."""
    tokenizer = train_tokenizer(["some text to learn from, and some more of it"] * 4, 300)
    ids = {"pad_token_id": 0, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = Gemma3TextConfig(vocab_size=vocabulary, num_hidden_layers=layers, **SIZES, **ids)
    model = Gemma3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50MB")
    save_tokenizer(tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def status(field: str) -> int:
    """A figure of this process in bytes, such as ``VmHWM``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def whole(recipe: Recipe, tokenizer: Any) -> OpenedModel:
    """The model whole and in float32, as every rank would hold it before it is sharded."""
    torch.manual_seed(recipe.seed)
    options = {"dtype": torch.float32, "attn_implementation": recipe.model.attention}
    model = packed_class(Gemma3ForCausalLM).from_pretrained(recipe.model.id, **options)
    model.config.use_cache = False
    return OpenedModel(model, None)


class Measuring(PackedTrainer):
    """Leaves the peaks of its rank behind: before the engine, with the weights in it, after two steps."""

    def _wrap_model(self, *args: Any, **kwargs: Any) -> Any:
        self.placed = status("VmHWM")  # the optimizer was made, and the engine comes next
        return super()._wrap_model(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Not here: writing twelve bytes a parameter takes longer than all that is measured."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        check = self.hooks.self_test

        def measured(trainer: TrainerView) -> None:
            self.loaded = status("VmHWM")
            check(trainer)

        self.hooks = replace(self.hooks, self_test=measured)
        result = super().train(*args, **kwargs)
        seen = {"placed": self.placed, "loading": self.loaded, "steps": status("VmHWM")}
        peaks = {name: peak - BEFORE[0] for name, peak in seen.items()}
        (self.run.root / f"memory-{rank()}.json").write_text(json.dumps(peaks))
        return result


BEFORE: list[int] = []
"""What this rank held before it opened the model."""


def opening(way: Any) -> Any:
    """``way`` of opening the model, with the peak of the process counted from there."""

    def opened(recipe: Recipe, tokenizer: Any) -> OpenedModel:
        ctypes.CDLL(None).malloc_trim(0)  # free memory of the parent's heap would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        BEFORE.append(status("VmRSS"))
        found: OpenedModel = way(recipe, tokenizer)
        return found

    return opened


def measure(root: Path, plan: Plan, way: Any) -> dict[str, Any]:
    """Peaks of the rank that takes most, and the losses."""
    run = RunDir.create(root, plan)
    with mock.patch.object(training, "open_model", opening(way)):
        attempt = forked_ranks.start(run, trainer=Measuring)
    if attempt.wait() is not ExitCode.DONE:
        sys.exit(attempt.log()[-4000:])
    seen = [json.loads(path.read_text()) for path in root.glob("memory-*.json")]
    assert len(seen) == plan.topology.world_size
    peaks = {name: max(peak[name] for peak in seen) for name in seen[0]}
    return peaks | {"losses": [step.loss for step in steps_of(run)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--strategy", action="append", help=f"of {', '.join(STRATEGIES)}; all if none is given"
    )
    parser.add_argument("--ranks", type=int, action="append", help="2 and 4 if left out")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, model = sample(root), root / "model"
        parameters = save_model(model, layers=arguments.layers, vocabulary=arguments.vocabulary)
        cases = [(name, n) for name in arguments.strategy or STRATEGIES for n in arguments.ranks or (2, 4)]
        settings: dict[str, Any] = {"model__id": model, "length__max_steps": 2}
        plans = {  # a row per rank and step: what weights take does not depend on it
            case: make_plan(data, *case, model=NO_SCRATCH, batch__global_batch_size=case[1], **settings)
            for case in cases
        }
        for (strategy, ranks), plan in plans.items():
            found = {
                name: measure(root / f"{strategy}-{ranks}-{name}", plan, way)
                for name, way in {"whole": whole, "sharded": open_model}.items()
            }
            equal = found["whole"]["losses"] == found["sharded"]["losses"]
            rows.append({"strategy": strategy, "ranks": ranks, "losses_equal": equal, **found})
    if arguments.json:
        print(json.dumps({"parameters": parameters, "rows": rows}))
    else:
        print_table(parameters, rows)
    return 0 if all(row["losses_equal"] for row in rows) else 1


def print_table(parameters: int, rows: list[dict[str, Any]]) -> None:
    print(f"{parameters:,} parameters: {4 * parameters / MEBI:.0f} MiB in float32\n")
    print(
        "| strategy | ranks | before the engine | own part | weights in it | own part | 2 steps | own part |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        peaks = [
            row[way][when] / MEBI for when in ("placed", "loading", "steps") for way in ("whole", "sharded")
        ]
        cells = " | ".join(f"{peak:.0f}" for peak in peaks)
        print(f"| {row['strategy']} | {row['ranks']} | {cells} |")
    print("\nLosses equal in every bit: " + ("yes" if all(row["losses_equal"] for row in rows) else "NO"))


if __name__ == "__main__":
    sys.exit(main())
