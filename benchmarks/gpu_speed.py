"""One GPU: tokens/s, MFU, and peak memory against the prediction; gemfit and TRL in one run.

    python benchmarks/gpu_speed.py --tokenizer DIR [--sizes 1b,4b] [--steps 12] [--peers DIR] [--json]
    python benchmarks/gpu_speed.py --sizes scratch --without-trl      # any machine, a minute

Weights are random ones of the real shape, because speed does not depend on them; the tokenizer is a Gemma 3
one, from any Gemma 3 model folder. The recipe is gemma3/SIZE, or gemma3/SIZE-lora where the full one is
predicted not to fit the GPU. Both sides take their turn in a process of their own, on the same packed rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from timed_training import PEERS, train_apart
from transformers import AutoConfig, AutoModelForCausalLM

from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.bench.synthetic_data import write_conversations
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.predict import flops
from gemfit_launch.predict.gpu_specs import GpuSpec, guess_gpu
from gemfit_launch.predict.memory import configuration_of, predict_memory
from gemfit_launch.predict.shape_lookup import find_shape
from gemfit_launch.runs.ensure_pack import ensure_pack

FACTS = Path(str(sys.modules["gemfit_launch.predict"].__path__[0])) / "facts"
NOT_TENSORS = ("fragmentation", "context")
WARMUP = 3
"""Steps that do not count."""


def random_model(size: str, tokenizer: Path, folder: Path) -> None:
    """A text model of this size with random weights in bfloat16, 2 bytes a parameter on disk."""
    config = json.loads((FACTS / f"gemma3-{size}.json").read_text())["config"]
    text = dict(config.get("text_config") or config) | {"model_type": "gemma3_text"}
    kind = text.pop("model_type")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **text), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)


def plan_for(size: str, scratch: Path, tokenizer: Path | None, steps: int) -> Plan:
    """An exact plan on one GPU, or on a CPU for `scratch`; its pack is built."""
    total = WARMUP + steps
    common = (
        "length.num_epochs=null",
        f"length.max_steps={total}",
        "tracking.report_to=[]",
        "data.validation_share=0",
    )
    if size == "scratch":
        small = ("data.seq_len=128", "model.scratch.num_hidden_layers=2", "batch.global_batch_size=8")
        return _planned("debug/cpu-tiny", (*common, *small), scratch)
    if tokenizer is None:
        sys.exit("give --tokenizer, the folder of any Gemma 3 model")
    folder = scratch / size
    random_model(size, tokenizer, folder)
    settings = (*common, f"model.id={folder}", "batch.global_batch_size=16", "strategy=single")
    plan = _planned(f"gemma3/{size}", settings, scratch)
    gpu = guess_gpu(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if gpu is not None and predicted(plan)[1] > gpu.usable_bytes:
        plan = _planned(f"gemma3/{size}-lora", settings, scratch)
    return plan


def _planned(name: str, settings: tuple[str, ...], scratch: Path) -> Plan:
    data = scratch / "made-up.jsonl"
    request = Request(name=name, settings=settings, data=str(data))
    if not data.is_file():
        write_conversations(data, seq_len=1024, rows=200)
    recipe, ranks = request.recipe(), Ranks(nproc=1)
    folder = Path(resolve_plan(recipe, ranks).pack.folder)
    ensure_pack(make_pack_job(recipe), folder, force=False, say=lambda line: None)
    return resolve_plan(recipe, ranks)


def predicted(plan: Plan) -> tuple[int, int]:
    """Bytes of tensors, and of everything, on the GPU."""
    shape = find_shape(plan.recipe.model).shape
    assert shape is not None, "the shape is in the folder, or in the recipe"
    memory = predict_memory(configuration_of(plan, shape), plan.recipe.checkpoint)
    tensors = sum(part.bytes for part in memory.gpu if part.name not in NOT_TENSORS)
    return tensors, memory.gpu_bytes


def measure(size: str, plan: Plan, sides: tuple[str, ...], peers: str) -> dict[str, Any]:
    """Each side's figures, in its own process."""
    tensors, whole = predicted(plan)
    found: dict[str, Any] = {
        "size": size,
        "how": f"LoRA {plan.recipe.model.lora.rank}" if plan.recipe.model.lora else "full",
        "device": plan.topology.device,
        "attention": plan.recipe.model.attention,
        "rows_at_once": plan.batch.per_device_batch_size,
        "predicted_tensor_bytes": tensors,
        "predicted_bytes": whole,
    }
    for side in sides:
        found[side] = summary(train_apart(side, plan, peers=peers), plan)
    if "trl" in sides:
        found["speed_ratio"] = found["ours"]["tokens_per_second"] / found["trl"]["tokens_per_second"]
    return found


def summary(result: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Medians over the steps that count."""
    steps = result["steps"][WARMUP - 1 :]  # the clock has left out the first
    rate = statistics.median(step["tokens"] / step["wall"] for step in steps)
    shape = find_shape(plan.recipe.model).shape
    assert shape is not None, "the shape is in the folder, or in the recipe"
    config, gpu = configuration_of(plan, shape), guess_gpu(result.get("gpu"))
    return {
        "tokens_per_second": rate,
        "mfu": _mfu(rate * flops.model_flops(config, with_embedding=True), gpu),
        "mfu_without_embedding": _mfu(rate * flops.model_flops(config, with_embedding=False), gpu),
        "gpu_peak_bytes": result.get("gpu_peak_bytes"),
        "gpu_reserved_bytes": result.get("gpu_reserved_bytes"),
        "gpu": result.get("gpu"),
        "losses": result["losses"],
    }


def _mfu(done: float, gpu: GpuSpec | None) -> float | None:
    return done / gpu.peak_flops if gpu is not None else None


def as_text(found: dict[str, Any]) -> str:
    """A few lines of text."""
    lines = [
        f"{found['size']}, {found['how']}, {found['attention']}, {found['rows_at_once']} rows at once, "
        f"{found['device']}; predicted {found['predicted_tensor_bytes'] / 1e9:.1f} GB of tensors"
    ]
    for side in ("ours", "trl"):
        if side in found:
            of = found[side]
            peak = "-" if of["gpu_peak_bytes"] is None else f"{of['gpu_peak_bytes'] / 1e9:.1f} GB"
            mfu = (
                "-" if of["mfu"] is None else f"{of['mfu']:.1%} ({of['mfu_without_embedding']:.1%} w/o emb.)"
            )
            lines.append(f"  {side}: {of['tokens_per_second']:,.0f} tokens/s, MFU {mfu}, peak {peak}")
    if "speed_ratio" in found:
        lines.append(f"  ratio {found['speed_ratio']:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1b,4b", help="of 270m, 1b, 4b, 12b, scratch")
    parser.add_argument("--tokenizer", type=Path, help="folder of any Gemma 3 model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    if not torch.cuda.is_available() and sizes != ["scratch"]:
        sys.exit("there is no GPU here; `--sizes scratch` shows on a CPU that the script works")
    sides = ("ours",) if options.without_trl else ("ours", "trl")
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["GEMFIT_CACHE"] = str(Path(scratch) / "cache")
        for size in sizes:
            plan = plan_for(size, Path(scratch), options.tokenizer, options.steps)
            results.append(measure(size, plan, sides, options.peers))
    print(json.dumps(results) if options.json else "\n".join(map(as_text, results)))


if __name__ == "__main__":
    main()
