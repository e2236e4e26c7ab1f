"""Predicted memory per rank and node, and disk space. Pure.

A step has six moments at which memory can be largest: the end of the forward pass, the loss, the sum of the
output layer's gradients, a layer's backward pass, the embedding's gradient, and the optimizer's step. Model
states stay through all of them. Each constant names its source, or that it is assumed. Checked against
running processes (benchmarks/memory_states.md) and against fake tensors of real sizes
(benchmarks/memory_peaks.md), not on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gemfit.schemas.recipe_training import CheckpointRecipe
from gemfit.schemas.strategy import DeepSpeed
from gemfit_launch.predict import activation_memory
from gemfit_launch.predict.configuration import FLOAT32, Configuration
from gemfit_launch.predict.model_state_memory import MOMENTS, ModelStates, PlacedStates, place_model_states

FRAGMENTATION = 0.06
"""Assumed: share of the peak that the caching allocator holds without using it."""
CONTEXT_BYTES = 700_000_000
"""Assumed: CUDA context, cuBLAS workspace and loaded kernels of one process."""
COMMUNICATION_BYTES = 1_000_000_000
"""Assumed: buffers of NCCL's channels, where there is more than one rank."""
PROCESS_BYTES = 4_000_000_000
"""Assumed: host memory of one rank's interpreter and libraries."""
CHECKPOINT_BYTES = FLOAT32 + MOMENTS
"""Of one trained parameter in a checkpoint: itself and AdamW's moments, in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPart:
    """A share of the memory, and its purpose."""

    name: str
    bytes: int
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory of one rank on its GPU, memory of its node, and disk space."""

    gpu: tuple[MemoryPart, ...]
    """At the moment of the step when they are largest together."""
    moment: str
    """`forward`, `loss`, `output layer`, `backward`, `embedding` or `step`."""
    host_rank: tuple[MemoryPart, ...]
    """While training; in host memory, of one rank."""
    loading_rank: int
    """Host memory of one rank while the model is loaded."""
    ranks_per_node: int
    checkpoint: int
    """On disk, of one checkpoint."""
    kept: int
    """Checkpoints on disk at once, the one being written included."""

    @property
    def gpu_bytes(self) -> int:
        return sum(part.bytes for part in self.gpu)

    @property
    def states_bytes(self) -> int:
        return sum(part.bytes for part in self.gpu if part.name in STATES)

    @property
    def host_node_bytes(self) -> int:
        """Host memory of a node: training or loading, whichever is more."""
        training = sum(part.bytes for part in self.host_rank)
        return self.ranks_per_node * max(training, self.loading_rank + PROCESS_BYTES)

    @property
    def disk_bytes(self) -> int:
        return self.kept * self.checkpoint

    @property
    def largest(self) -> MemoryPart:
        return max(self.gpu, key=lambda part: part.bytes)

    def explain(self) -> list[str]:
        """One line per part, the largest first."""
        parts = sorted(self.gpu, key=lambda part: -part.bytes)
        return [f"{gigabytes(part.bytes)} {part.name}: {part.why}" for part in parts if part.bytes]


REDUCING = ("backward", "embedding")
"""Moments at which gradients are reduced."""
STATES = ("parameters", "masters", "gradients", "buckets", "moments")
WHY = {
    "parameters": "what the model computes with, or is cast from",
    "masters": "float32 copies that AdamW steps",
    "gradients": "at their peak, before the step",
    "buckets": "where gradients wait to be reduced",
    "moments": "AdamW, 8 bytes per trained parameter",
}


def predict_memory(config: Configuration, checkpoint: CheckpointRecipe) -> Memory:
    """Predicted memory of one rank, by part."""
    placed = place_model_states(config)
    moment, parts = max(gpu_memory(config, placed).items(), key=lambda item: _sum(item[1]))
    communication = COMMUNICATION_BYTES if config.world_size > 1 else 0
    parts += [
        MemoryPart(name="fragmentation", bytes=round(FRAGMENTATION * _sum(parts)), why="6 %, assumed"),
        MemoryPart(name="context", bytes=CONTEXT_BYTES + communication, why="CUDA and NCCL, assumed"),
    ]
    return Memory(
        gpu=tuple(part for part in parts if part.bytes),
        moment=moment,
        host_rank=_host(config, placed, checkpoint),
        loading_rank=FLOAT32 * _read_at_once(config),
        ranks_per_node=config.ranks_per_node,
        checkpoint=CHECKPOINT_BYTES * config.trained,
        kept=checkpoint.keep + checkpoint.keep_best + 1,
    )


def gigabytes(size: float) -> str:
    """Such as ``12.3 GB``; a gigabyte is 10⁹ bytes."""
    amount = size / 1e9
    return f"{amount:,.0f} GB" if amount >= 100 else f"{amount:.1f} GB" if amount >= 1 else f"{amount:.2f} GB"


def _read_at_once(config: Configuration) -> int:
    """Parameters in host memory while loading: each rank reads its slices, one tensor at a time."""
    shape = config.shape
    return shape.parameters if config.read_whole else shape.embedding_parameters


def gpu_memory(config: Configuration, placed: PlacedStates) -> dict[str, list[MemoryPart]]:
    """Model states and working memory, at each moment of a step that can be the peak."""
    return {
        moment: [*_named(_present(config, placed.gpu, moment)), *working]
        for moment, working in working_memory(config, placed).items()
    }


def _present(config: Configuration, states: ModelStates, moment: str) -> ModelStates:
    """ZeRO-2 allocates its buckets when the first layer has gradients, and frees them after the last.

    ZeRO-3 copies the gradients of a group of parameters when it steps them.
    """
    match config.strategy:
        case DeepSpeed(stage=2) if moment not in REDUCING:
            return replace(states, buckets=0)
        case DeepSpeed(stage=3) if moment != "step":
            return replace(states, gradients=states.masters)
        case _:
            return states


def working_memory(config: Configuration, placed: PlacedStates) -> dict[str, list[MemoryPart]]:
    """Memory other than model states, at each moment of a step that can be the peak."""
    saved = _saved_for_backward(config)
    gathers = MemoryPart(
        name="gathers", bytes=activation_memory.gather_bytes(config), why="whole parameters, not shards"
    )
    edges = replace(gathers, bytes=activation_memory.gathered_edge_bytes(config))
    slice_tokens = min(activation_memory.LOSS_SLICE_TOKENS, config.tokens)
    logits = MemoryPart(
        name="logits and loss",
        bytes=activation_memory.logits_bytes(config),
        why=f"{slice_tokens:,} tokens at a time",
    )
    forward_logits = replace(logits, bytes=logits.bytes * 2 // 3)  # without the last gradient
    casts = MemoryPart(
        name="weight casts", bytes=activation_memory.weight_cache_bytes(config), why="autocast keeps them"
    )
    unpacked = MemoryPart(
        name="unpacked weight",
        bytes=activation_memory.unpacked_bytes(config),
        why="from 4 bits, one at a time",
    )
    merged = MemoryPart(
        name="merged weight",
        bytes=activation_memory.dora_bytes(config),
        why="DoRA takes its norm, one at a time",
    )
    saved_casts = [] if config.activation_checkpointing else [casts]
    checkpointed = [_checkpointed_layer(config)] if config.activation_checkpointing else []
    waiting = MemoryPart(
        name="output gradient",
        bytes=activation_memory.output_gradient_bytes(config),
        why="tied to the embedding",
    )
    layer = MemoryPart(
        name="layer gradient",
        bytes=activation_memory.gradient_transient_bytes(config),
        why="before it is added up",
    )
    roots = FLOAT32 * placed.gpu.moments // MOMENTS
    return {
        "forward": [saved, gathers, casts, unpacked, merged, forward_logits],
        "loss": [saved, gathers, *saved_casts, logits, _output(config)],
        "output layer": [saved, gathers, *saved_casts, _output_sum(config)],
        "backward": [saved, gathers, *saved_casts, unpacked, merged, waiting, layer, *checkpointed],
        "embedding": [edges, _embedding(config)],
        "step": [MemoryPart(name="step", bytes=roots, why="AdamW: roots of all second moments")],
    }


def _output(config: Configuration) -> MemoryPart:
    size = activation_memory.output_layer_bytes(config)
    return MemoryPart(name="output layer", bytes=size, why="its gradient so far, or its cast")


def _output_sum(config: Configuration) -> MemoryPart:
    size = activation_memory.output_sum_bytes(config)
    return MemoryPart(name="output layer", bytes=size, why="gradients of two slices, and their sum")


def _embedding(config: Configuration) -> MemoryPart:
    size = activation_memory.embedding_gradient_bytes(config)
    return MemoryPart(name="embedding gradient", bytes=size, why="dense, and added to the output layer's")


def _saved_for_backward(config: Configuration) -> MemoryPart:
    layers = config.shape.num_layers
    each = (
        activation_memory.checkpoint_bytes
        if config.activation_checkpointing
        else activation_memory.layer_bytes
    )
    how = "inputs of the layers" if config.activation_checkpointing else "all layers"
    size = layers * each(config) + activation_memory.edge_bytes(config)
    return MemoryPart(name="activations", bytes=size, why=f"{how}, {config.tokens:,} tokens")


def _checkpointed_layer(config: Configuration) -> MemoryPart:
    casts = activation_memory.weight_cache_bytes(config) // config.shape.num_layers
    return MemoryPart(
        name="checkpointed layer", bytes=activation_memory.layer_bytes(config) + casts, why="one at a time"
    )


def _host(
    config: Configuration, placed: PlacedStates, checkpoint: CheckpointRecipe
) -> tuple[MemoryPart, ...]:
    copies = checkpoint.asynchronous or not placed.host.moments
    copy = CHECKPOINT_BYTES * config.trained // config.world_size if copies else 0
    return (
        MemoryPart(name="process", bytes=PROCESS_BYTES, why="assumed"),
        MemoryPart(name="offload", bytes=placed.host.total, why="states that are not on the GPU"),
        MemoryPart(name="checkpoint copy", bytes=copy, why="12 bytes per trained parameter, over the ranks"),
    )


def _named(states: ModelStates) -> list[MemoryPart]:
    return [MemoryPart(name=name, bytes=getattr(states, name), why=WHY[name]) for name in STATES]


def _sum(parts: list[MemoryPart]) -> int:
    return sum(part.bytes for part in parts)
