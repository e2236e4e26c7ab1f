"""Settings that decide the speed of a step, each with its reason, and their conflicts. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gemfit.schemas.optimizer import OPTIMIZERS, optimizer_of, prefetch_depth
from gemfit.schemas.plan import Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit_launch.predict.activation_memory import LOGIT_BYTES, LOSS_SLICE_TOKENS
from gemfit_launch.predict.model_shape import ModelShape

GIB, MIB = 2**30, 2**20


class SpeedLine(NamedTuple):
    """One setting: its name, its value, and why it was chosen or what it saves."""

    what: str
    chosen: str
    because: str


def speed_problems(recipe: Recipe, topology: Topology) -> list[str]:
    """Settings that do not work together, or not on these ranks."""
    model, strategy = recipe.model, recipe.strategy
    problems = []
    if model.kernels == "liger" and topology.device == "cpu":
        problems.append("model.kernels liger needs a GPU; use none")
    if model.kernels == "liger" and model.compile:
        problems.append(
            "model.compile makes fused kernels of the same modules as model.kernels liger; use one"
        )
    if model.compile and isinstance(strategy, DeepSpeed) and strategy.stage == 3:
        problems.append(
            "model.compile does not work with zero3, which gathers parameters inside of layers; use fsdp2"
        )
    if model.compile and model.quantization is not None:
        problems.append("model.compile is not proven with model.quantization; use one of them")
    if model.compile and model.attention == "flex_attention":
        problems.append("model.compile is not proven with flex_attention, which compiles itself; use sdpa")
    return problems


def speed_lines(plan: Plan, shape: ModelShape | None) -> list[SpeedLine]:
    """All speed settings of ``plan``; what loss slices save is known where the vocabulary is."""
    model = plan.recipe.model
    optimizer = optimizer_of(plan.recipe, plan.topology)
    depth = prefetch_depth(plan.batch)
    pinned = ", pinned, copied while the GPU computes" if plan.topology.device == "cuda" else ""
    return [
        SpeedLine("attention", plan.attention, plan.attention_because),
        SpeedLine("loss", f"in slices of {LOSS_SLICE_TOKENS:,} tokens", _loss(plan, shape)),
        *_frozen(model, shape),
        SpeedLine("kernels", model.kernels, _kernels(plan)),
        SpeedLine("compile", "on" if model.compile else "off", _compile(plan)),
        SpeedLine("optimizer", optimizer, OPTIMIZERS[optimizer]),
        SpeedLine("batches", f"{depth} made ahead", f"by a thread of each rank{pinned}"),
        *_overlap(plan),
    ]


def logits_of(tokens: int, shape: ModelShape) -> str:
    """Size of the logits of ``tokens`` tokens and their gradients, at the peak of a backward pass."""
    size = tokens * shape.vocab_size * LOGIT_BYTES
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"


def _loss(plan: Plan, shape: ModelShape | None) -> str:
    if shape is None:
        return "no logits of a whole batch; the vocabulary is not known here"
    batch = plan.batch
    tokens = batch.per_device_batch_size * batch.seq_len // batch.sequence_parallel
    if tokens <= LOSS_SLICE_TOKENS:
        return f"a batch is one slice; {logits_of(tokens, shape)} of logits"
    return (
        f"{logits_of(LOSS_SLICE_TOKENS, shape)} of logits at a time instead of "
        f"{logits_of(tokens, shape)}, in training and in evaluation"
    )


def _frozen(model: ModelRecipe, shape: ModelShape | None) -> list[SpeedLine]:
    """Nothing unless frozen weights are in 4 bits."""
    if model.quantization is None:
        return []
    because = "frozen layers in 4 bits, dequantized for each matrix product: slower, and much smaller"
    if shape is not None:
        weights = shape.num_layers * shape.linear_parameters
        because += f": {weights / 2 / GIB:.1f} GiB instead of {weights * 4 / GIB:.1f}"
    return [SpeedLine("frozen weights", model.quantization.type, because)]


def _kernels(plan: Plan) -> str:
    if plan.recipe.model.kernels == "liger":
        return "norms, GeGLU and rotary positions; compared with the plain ones before the first step"
    return "transformers' own modules; model.kernels=liger fuses norms, GeGLU and rotary positions on GPUs"


def _compile(plan: Plan) -> str:
    if plan.recipe.model.compile:
        return "decoder layers, one by one; minutes before the first step; memory is predicted as without"
    return "model.compile=true compiles the decoder layers"


def _overlap(plan: Plan) -> list[SpeedLine]:
    match plan.recipe.strategy:
        case Fsdp():
            why = "FSDP2 gathers the next layer while one is computed"
            if plan.engine.replicas > 1:
                why += "; copies of the model average their gradients once per step"
            return [SpeedLine("communication", "overlapped", why)]
        case DeepSpeed():
            return [SpeedLine("communication", "overlapped", "DeepSpeed's overlap_comm")]
    return []
