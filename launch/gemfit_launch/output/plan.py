"""A plan as text and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.recipe_training import CheckpointRecipe, EvaluationRecipe, LengthRecipe
from gemfit_launch.output.forecast import forecast_json, show_forecast
from gemfit_launch.output.sizes import sizes_json, sizes_table
from gemfit_launch.output.tables import console, facts, table
from gemfit_launch.planning.accelerate import RUN_DIR
from gemfit_launch.planning.node_range import Size
from gemfit_launch.planning.speed import SpeedLine, speed_lines
from gemfit_launch.planning.write_configs import accelerate_yaml, deepspeed_json
from gemfit_launch.predict.architectures import find_architecture
from gemfit_launch.predict.configuration import count, trained_shapes
from gemfit_launch.predict.forecast import Forecast, make_forecast
from gemfit_launch.predict.shape_lookup import find_shape
from gemfit_launch.runs.hub_token import token_source


def plan_json(plan: Plan, forecast: Forecast, sizes: Sequence[Size] = ()) -> str:
    """The plan as JSON, with derived values of batch and topology, the forecast, and the sizes of a range."""
    data: dict[str, Any] = plan.model_dump(mode="json")
    data["batch"] |= {
        "slots": plan.batch.slots,
        "idle": plan.batch.idle,
        "tokens_per_step": plan.batch.tokens_per_step,
    }
    data["topology"]["world_size"] = plan.topology.world_size
    data["architecture"] = find_architecture(plan.recipe.model)._asdict()
    data["trained_parameters"] = trained_parameters(plan.recipe.model)
    data["sizes"] = sizes_json(sizes)
    data["hub_token"] = token_source()
    data["forecast"] = forecast_json(forecast)
    data["speed"] = [line._asdict() for line in _speed(plan)]
    return json.dumps(data, indent=2)


def show_plan(
    plan: Plan,
    name: str,
    command: list[str],
    forecast: Forecast | None = None,
    sizes: Sequence[Size] = (),
) -> None:
    """Print everything that would run; ``command`` starts it."""
    out = console()
    show_summary(out, plan, name)
    if sizes:
        out.print("Nodes", style="bold")
        out.print(sizes_table(sizes))
        out.print()
    out.print("Speed", style="bold")
    out.print(table(["setting", "value", "why"], _speed(plan)))
    out.print()
    show_forecast(out, plan, forecast or make_forecast(plan))
    _section(out, "accelerate.yaml", accelerate_yaml(plan))
    if plan.deepspeed is not None:
        _section(out, "deepspeed.json", deepspeed_json(plan))
    _section(out, "Environment", "\n".join(f"{key}={value}" for key, value in plan.env.items()))
    each = "Each node runs" if plan.topology.nodes > 1 else "What runs"
    _section(out, f"{each}, with {RUN_DIR} filled in", shlex.join(plan.command).replace("'", ""))
    if plan.topology.nodes == 1 or plan.site is not None:
        _section(out, "Command", shlex.join(command))


def show_summary(out: Console, plan: Plan, name: str) -> None:
    """The arithmetic of a plan and its warnings."""
    recipe = plan.recipe
    rows = [
        ("model", _model(plan)),
        ("architecture", _architecture(recipe.model)),
        ("trained parameters", _trained(recipe.model)),
        ("strategy", f"{recipe.strategy.label} on {_places(plan)}"),
        ("data", f"{recipe.data.label or 'not given'}, {_rendering(plan)}"),
        *(("files", note) for note in plan.data_notes),
        ("rows", f"{plan.steps.rows:,} of {recipe.data.seq_len:,} tokens, {plan.steps.rows_are}"),
        ("batch", _batch(plan)),
        ("tokens per step", f"{plan.batch.tokens_per_step:,}"),
        (
            "steps",
            f"{plan.steps.total:,} ({_length(recipe.length)}), {plan.steps.per_epoch:,.1f} per epoch",
        ),
        ("warm-up", f"{recipe.optim.warmup_steps:,} steps, {plan.steps.warmup_share:.0%} of the run"),
        ("learning rate", f"{recipe.optim.learning_rate:g}, {recipe.optim.schedule}"),
        ("checkpoints", _checkpoints(recipe.checkpoint)),
        ("evaluation", _evaluation(recipe.evaluation)),
    ]
    rows += [("hub", _hub(recipe.hub))] if recipe.hub.push != "never" else []
    out.print(facts(name, rows))
    for warning in plan.warnings:
        out.print(f"\nwarning: {warning}", style="yellow")
    out.print()


def _speed(plan: Plan) -> list[SpeedLine]:
    return speed_lines(plan, find_shape(plan.recipe.model).shape)


def trained_parameters(model: ModelRecipe) -> int | None:
    """How many parameters are trained; `None` where the model's shape is unknown."""
    shape = find_shape(model).shape
    return None if shape is None else count(trained_shapes(shape, model.lora))


def _trained(model: ModelRecipe) -> str:
    shape = find_shape(model).shape
    if shape is None:
        return "unknown: so is the shape of the model"
    trained = count(trained_shapes(shape, model.lora))
    whole = model.lora.modules_to_save if model.lora else ()
    copies = f", {' and '.join(whole)} among them" if whole else ""
    return f"{trained:,}, {trained / shape.parameters:.2%} of the model{copies}"


def _model(plan: Plan) -> str:
    model = plan.recipe.model
    what = model.id or "random weights"
    how = model.lora.label if model.lora else "full fine-tune"
    return f"{what}, {how}, {model.dtype}, {plan.attention} attention"


def _architecture(model: ModelRecipe) -> str:
    found = find_architecture(model)
    return f"{f'{found.name}, ' if found.name else ''}{found.standing}: {found.because}"


def _places(plan: Plan) -> str:
    topology = plan.topology
    ranks = _count(topology.world_size, "GPU" if topology.device == "cuda" else "CPU rank")
    nodes = f" ({topology.nodes} nodes of {topology.ranks_per_node})" if topology.nodes > 1 else ""
    replicas = plan.engine.replicas
    copies = f", {replicas} copies of {topology.world_size // replicas} each" if replicas > 1 else ""
    others = f", or on {_listed(plan.node_counts[:-1])} nodes" if plan.node_counts else ""
    return ranks + nodes + copies + others


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def _rendering(plan: Plan) -> str:
    data = plan.recipe.data
    return f"{data.format}, loss on {data.loss_on}, overlong: {data.overlong}"


def _batch(plan: Plan) -> str:
    batch = plan.batch
    steps = _count(batch.gradient_accumulation_steps, "gradient accumulation step")
    idle = f" = {batch.slots} slots, {batch.idle} idle" if batch.idle else ""
    degree = batch.sequence_parallel
    ranks = (
        _count(batch.world_size, "rank")
        if degree == 1
        else f"{_count(batch.data_ranks, 'group')} of {degree} ranks that share each row"
    )
    factors = f"{batch.per_device_batch_size} per device x {ranks} x {steps}"
    return f"{batch.global_batch_size} rows: {factors}{idle}"


def _evaluation(evaluation: EvaluationRecipe) -> str:
    early = evaluation.early_stopping
    ends = f"; the run ends after {early.patience:,} without a lower loss" if early else ""
    return f"every {evaluation.every_steps:,} steps{ends}"


def _checkpoints(checkpoint: CheckpointRecipe) -> str:
    best = " and the best" if checkpoint.keep_best else ""
    return f"every {checkpoint.every_steps:,} steps, {checkpoint.keep}{best} kept"


def _hub(hub: HubRecipe) -> str:
    when = {"end": "after the last step", "best": "each best checkpoint", "every_save": "every checkpoint"}
    token = token_source()
    found = f"token of {token}" if token else "no token here: log in with `hf auth login`, or set HF_TOKEN"
    return f"{when[hub.push]} to {hub.repo} (if new, {'private' if hub.private else 'public'}); {found}"


def _length(length: LengthRecipe) -> str:
    return f"{length.num_epochs:g} epochs" if length.num_epochs is not None else "as the recipe says"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number != 1 else ''}"


def _section(out: Console, title: str, text: str) -> None:
    out.print(title, style="bold")
    for line in text.splitlines():
        # A command that is wrapped cannot be copied.
        out.print(f"  {line}", soft_wrap=True)
    out.print()
