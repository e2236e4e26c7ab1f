"""What does not fit of a configuration, and the change that removes it. Pure.

A change that needs no other training comes first: sharing rows, sharding over more GPUs, offload. More GPUs
are named only where the global batch has work for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gemfit_launch.predict.gpu_specs import GPUS_PER_NODE
from gemfit_launch.predict.memory import STATES, MemoryPart, gigabytes
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.model_state_memory import place_model_states
from gemfit_launch.predict.search import (
    Estimate,
    changes_to_share_rows,
    largest_world,
    possible_degrees,
    smaller,
)

ACTIVATIONS = ("activations", "checkpointed layer")
STATES_SHARE = 0.8
"""Of a GPU, that states may take where the rest of a step has to fit too."""


def describe_excess(estimate: Estimate, shape: ModelShape) -> str:
    """The parts that make ``estimate`` too large, and what makes them smaller."""
    memory = estimate.memory
    if memory.gpu_bytes <= estimate.gpu.usable_bytes:
        needed = gigabytes(memory.host_node_bytes)
        return f"{needed} of host memory per node: more nodes, or no offload"
    states = memory.states_bytes
    rows = sum(part.bytes for part in memory.gpu if part.name in ACTIVATIONS)
    largest = max((part for part in memory.gpu if part.name not in STATES), key=lambda part: part.bytes)
    if rows >= max(states, largest.bytes):
        return f"activations {gigabytes(rows)}: {_fewer_tokens(estimate, shape)}"
    if states >= largest.bytes:
        return f"model states {gigabytes(states)}: {_fewer_states(estimate, shape)}"
    return f"{largest.name} {gigabytes(largest.bytes)}: {_smaller_part(estimate, largest)}"


def _fewer_tokens(estimate: Estimate, shape: ModelShape) -> str:
    changes = []
    if not estimate.config.activation_checkpointing:
        changes.append("model.activation_checkpointing=true")
    degree = max(possible_degrees(estimate.recipe, shape))
    if estimate.degree < degree:
        more = min(degree, 2 * estimate.degree)
        changes.append(f"strategy.sequence_parallel={more} or more, up to {degree}")
    if needed := changes_to_share_rows(estimate.recipe.model):
        changes.append(f"strategy.sequence_parallel with {' and '.join(needed)}")
    return _listed([*changes, "a shorter data.seq_len"])


def _fewer_states(estimate: Estimate, shape: ModelShape) -> str:
    changes, most = [], largest_world(estimate.recipe, shape)
    if _fit_on(estimate, most):
        changes.append(f"more GPUs, up to {most}")
    else:
        changes.append("a strategy that shards all of them over all GPUs (fsdp2, zero3)")
    if estimate.recipe.strategy.kind in ("fsdp2", "deepspeed") and not estimate.offloads:
        changes.append("--offload")
    return _listed([*changes, smaller(estimate.recipe.model)])


def _fit_on(estimate: Estimate, gpus: int) -> bool:
    """Whether on that many GPUs each holds so much less of the model states that a step has room.

    Weights that ZeRO-1 and ZeRO-2 copy to every GPU stay; under LoRA they are nearly all of the states.
    """
    config, usable = estimate.config, estimate.gpu.usable_bytes
    nodes_of = min(gpus, GPUS_PER_NODE)
    now = place_model_states(config).gpu.total
    left = place_model_states(replace(config, world_size=gpus, ranks_per_node=nodes_of)).gpu.total
    return now - left >= min(estimate.memory.gpu_bytes - usable, now / 2) and left < STATES_SHARE * usable


def _smaller_part(estimate: Estimate, part: MemoryPart) -> str:
    if part.name == "gathers":
        return "strategy.reshard_after_forward=true, zero3, or a larger GPU"
    return f"no number of GPUs makes it smaller; a larger GPU, or {smaller(estimate.recipe.model)}"


def _listed(changes: Sequence[str]) -> str:
    return ", or ".join(changes)
