"""One rank of the checkpoint tests: every engine saves, a fresh one resumes, both go on.

    torchrun --nproc-per-node 2 checkpoint_worker.py WORK_FOLDER FULL_DISK_FOLDER|- [--bf16]

Each rank writes what it saw to ``WORK_FOLDER/rank-R.json``; the tests assert on that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gemfit.checkpoint import SupersededError
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.train.checkpoint import engine_state
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.engine_state import collect
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState, resume
from gemfit.train.distributed.cpu_backend import leave, use_cpu_backend

use_cpu_backend()
engine_state.SMALL = 1000  # so that replicas of this small model are cut over the ranks too

from accelerate import Accelerator  # noqa: E402  (DeepSpeed picks its accelerator at import)
from accelerate.state import AcceleratorState, PartialState  # noqa: E402
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin  # noqa: E402
from transformers import Gemma3ForCausalLM, Gemma3TextConfig  # noqa: E402

KINDS = ("ddp", "fsdp2", "zero1", "zero2", "zero3", "zero2+offload", "zero3+offload")
TRAINING = {"seed": 1}
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


class Trainee(NamedTuple):
    """A prepared model and what belongs to it."""

    model: Any
    optimizer: Any
    scheduler: Any
    accelerator: Any


def state_of(trainee: Trainee) -> TrainingState:
    return TrainingState(**trainee._asdict())


def tiny_model(seed: int) -> Gemma3ForCausalLM:
    """Odd sizes, so that ZeRO's cuts fall inside rows of matrices."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 307, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 16}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, use_cache=False))


def prepare(kind: str, *, seed: int, bf16: bool) -> Trainee:
    """A fresh engine. Two optimizer groups, as a trainer without decay on norms would have."""
    AcceleratorState._reset_state()
    for used in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ.pop(used, None)
    if PartialState._shared_state:  # the engine before this one has left its own type there
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU
    precision = "bf16" if bf16 else "no"
    accelerator = Accelerator(cpu=True, mixed_precision=precision, **plugins(kind, bf16))
    model = tiny_model(seed)
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    others = [p for name, p in model.named_parameters() if "norm" not in name]
    groups = [{"params": others, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 / (step + 1))
    engine, optimizer = accelerator.prepare(model, plain)
    return Trainee(engine, optimizer, scheduler, accelerator)


def plugins(kind: str, bf16: bool) -> dict[str, Any]:
    if kind == "fsdp2":
        layer = {"transformer_cls_names_to_wrap": ["Gemma3DecoderLayer"]}
        policy = {"fsdp_version": 2, "auto_wrap_policy": "transformer_based_wrap"}
        return {"fsdp_plugin": FullyShardedDataParallelPlugin(**policy, **layer)}
    if not kind.startswith("zero"):
        return {}
    zero: dict[str, Any] = {"stage": int(kind[4])}
    if kind.endswith("offload"):
        zero["offload_optimizer"] = {"device": "cpu"}
        zero |= {"offload_param": {"device": "cpu"}} if zero["stage"] == 3 else {}
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "train_batch_size": 2 * WORLD,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=config)}


def train(trainee: Trainee, steps: range) -> list[float]:
    """This rank's losses of ``steps``; the data depends on step and rank alone."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(100 * step + RANK)
        ids = torch.randint(0, 307, (2, 24), generator=generator)
        loss = trainee.model(input_ids=ids, labels=ids, use_cache=False).loss
        trainee.accelerator.backward(loss)
        trainee.optimizer.step()
        trainee.scheduler.step()
        trainee.optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def snapshot(trainee: Trainee) -> dict[str, torch.Tensor]:
    """Copies of this rank's part of weights, moments and step counts."""
    copies = {}
    for name, value in collect(trainee.model, trainee.optimizer, trainee.accelerator).items():
        local: Any = getattr(value, "flat", value)
        copies[name] = (local.to_local() if hasattr(local, "to_local") else local).clone()
    return copies


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def saver(run: RunDir, kind: str, *, asynchronous: bool = False) -> Saver:
    context = SaveContext(attempt=1, strategy=kind, plan_digest="1" * 32, training=TRAINING, keep=2)
    return Saver(run, context, asynchronous=asynchronous)


def save_as(run: RunDir, trainee: Trainee, kind: str, step: int) -> None:
    saver(run, kind).save(state_of(trainee), step=step, cursor_row=4 * step, eval_loss=None)


def new_run(root: Path) -> RunDir:
    run = RunDir(root)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    return run


def round_trip(work: Path, kind: str, bf16: bool) -> dict[str, Any]:
    """Save after step 3 and go on to 6; resume into an engine of other weights and go on to 6."""
    run = new_run(work / kind)
    straight = prepare(kind, seed=1, bf16=bf16)
    train(straight, range(3))
    saved = snapshot(straight)
    with saver(run, kind, asynchronous=True) as saving:  # it writes while the training goes on
        saving.save(state_of(straight), step=3, cursor_row=12, eval_loss=None)
        losses = train(straight, range(3, 6))
    resumed = prepare(kind, seed=2, bf16=bf16)
    before = snapshot(resumed)
    manifest = resume(run, state_of(resumed), identity=TRAINING)
    loaded = snapshot(resumed)
    return {
        "engine": type(straight.model).__name__,
        "step": manifest.step if manifest else None,
        "differed_before": not equal(saved, before),
        "loaded_equal": equal(saved, loaded),
        "entries": len(loaded),
        "moments_move": all(value.any().item() for name, value in saved.items() if name.startswith("exp_")),
        "losses": losses,
        "resumed_losses": train(resumed, range(3, 6)),
        "end_equal": equal(snapshot(straight), snapshot(resumed)),
        "learning_rates": [[g["lr"] for g in t.optimizer.param_groups] for t in (straight, resumed)],
    }


def losses_under(work: Path, saved_by: str, kind: str) -> list[float]:
    """Losses of steps 4 to 6 when ``kind`` resumes what ``saved_by`` has saved."""
    trainee = prepare(kind, seed=3, bf16=False)
    resume(RunDir(work / saved_by), state_of(trainee), identity=TRAINING)
    return train(trainee, range(3, 6))


def failure(action: Callable[[], object]) -> str:
    """Kind and words of what ``action`` raises on this rank."""
    try:
        action()
    except (UserError, SupersededError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def refusals(work: Path, disk: Path | None) -> dict[str, Any]:
    """Failures that begin on rank 0 or in one rank's writes, as every rank sees them."""
    trainee = prepare("ddp", seed=1, bf16=False)
    run = new_run(work / "refusals")
    state, other = state_of(trainee), {"seed": 2}
    seen: dict[str, Any] = {"empty": resume(run, state, identity=other)}
    save_as(run, trainee, "ddp", step=1)
    seen["plan"] = failure(lambda: resume(run, state, identity=other))
    if RANK == 0:
        write_atomic(run.attempt_file, "2\n")
    torch.distributed.barrier()
    seen["superseded"] = failure(lambda: save_as(run, trainee, "ddp", step=2))
    if disk is not None:
        seen["full_disk"] = full_disk(new_run(disk / "run"), trainee)
    return seen


def full_disk(run: RunDir, trainee: Trainee) -> dict[str, Any]:
    """Save where one checkpoint fits and two do not: once with a look at the free space, once without."""
    save_as(run, trainee, "ddp", step=1)
    seen: dict[str, Any] = {"looked": failure(lambda: save_as(run, trainee, "ddp", step=2))}
    import gemfit.checkpoint.store as store  # noqa: PLC0415  (only this scenario reaches into it)

    store.has_room = lambda *_: True
    seen["wrote"] = failure(lambda: save_as(run, trainee, "ddp", step=2))
    seen["left"] = sorted(path.name for path in run.checkpoints.iterdir())
    resumed = resume(run, state_of(trainee), identity=TRAINING)
    seen["resumed_step"] = resumed.step if resumed else None
    return seen


def main() -> None:
    work, disk, bf16 = Path(sys.argv[1]), sys.argv[2], "--bf16" in sys.argv
    seen: dict[str, Any] = {kind: round_trip(work, kind, bf16) for kind in KINDS}
    if not bf16:
        pairs = (("zero3", "fsdp2"), ("fsdp2", "zero1"), ("zero2", "ddp"), ("ddp", "zero3"))
        seen["across"] = {f"{a} to {b}": losses_under(work, a, b) for a, b in pairs}
        seen["refusals"] = refusals(work, None if disk == "-" else Path(disk))
    (work / f"rank-{RANK}.json").write_text(json.dumps(seen))
    leave(0)


main()
