"""Runs of two steps in this process: enough for weights, or adapters, that are not the first ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import PackReference, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.recipe_training import BatchRecipe, LengthRecipe
from gemfit.schemas.strategy import Single
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState, take_snapshot, write
from gemfit.train.model.build import load_matching_tokenizer, load_model
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.runs.ensure_pack import ensure_pack

TOPICS = ("sleep", "exams", "my garden", "rain", "the new job", "swimming")
IDS = torch.arange(6, 54)[None]


@dataclass(frozen=True)
class Trained:
    """A run with one checkpoint, at step 2, and the model that was saved there."""

    run: RunDir
    model: Any
    tokenizer: Any

    @property
    def logits(self) -> torch.Tensor:
        positions = torch.arange(IDS.shape[1])[None]
        with torch.no_grad():
            logits: torch.Tensor = self.model.eval()(input_ids=IDS, position_ids=positions).logits
        return logits


def conversation(number: int) -> list[dict[str, str]]:
    topic = TOPICS[number % len(TOPICS)]
    return [
        {"role": "system", "content": "You listen, and answer in one line."},
        {"role": "user", "content": f"{number} thoughts about {topic} keep me busy.\nWhat now?"},
        {"role": "assistant", "content": f"Tell me the first of them: {topic} can wait."},
        {"role": "user", "content": " It is > a list, <b>really</b>"},
    ]


def write_conversations(path: Path) -> Path:
    answered = ([*conversation(n), {"role": "assistant", "content": "Go on."}] for n in range(60))
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in answered))
    return path


def make_run(root: Path, recipe: Recipe) -> RunDir:
    """A run of one rank on the CPU, its data packed, without a checkpoint."""
    job = make_pack_job(recipe)
    pack = ensure_pack(job, root / "pack", force=False, say=lambda line: None)
    plan = make_plan(
        recipe,
        topology=Topology(nodes=1, ranks_per_node=1, device="cpu"),
        pack=PackReference(fingerprint=job.fingerprint, folder=str(root / "pack")),
        rows=pack.splits["train"].rows,
        rows_are_packed=True,
    )
    return RunDir.create(root / "run", plan)


def train(root: Path, model: ModelRecipe) -> Trained:
    """Two steps on made-up ids, and a checkpoint."""
    recipe = Recipe(
        model=model,
        data=DataRecipe(source=str(write_conversations(root / "data.jsonl")), seq_len=128),
        batch=BatchRecipe(global_batch_size=2),
        length=LengthRecipe(max_steps=2, num_epochs=None),
        strategy=Single(),
    )
    run = make_run(root, recipe)
    plan = run.plan()
    tokenizer = load_matching_tokenizer(plan)
    loaded = load_model(plan.recipe, tokenizer)
    save_after_two_steps(run, loaded)
    return Trained(run, loaded, tokenizer)


def save_after_two_steps(run: RunDir, model: Any) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    positions = torch.arange(IDS.shape[1])[None]
    for _ in range(2):
        model(input_ids=IDS, position_ids=positions, targets=IDS.roll(-1)).loss_sum.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    context = SaveContext(
        attempt=run.begin_attempt(),
        strategy="single",
        plan_digest=run.plan().digest,
        training=run.plan().training_identity(),
        keep=1,
    )
    accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    training = TrainingState(model=model, optimizer=optimizer, scheduler=scheduler, accelerator=accelerator)
    snapshot = take_snapshot(training, HostMemory(), step=2, cursor_row=4, eval_loss=None, copied=False)
    write(run, context, snapshot)
