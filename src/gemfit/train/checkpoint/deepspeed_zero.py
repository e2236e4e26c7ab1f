"""State of a DeepSpeed ZeRO engine by parameter name: fp32 masters and AdamW moments of this rank.

ZeRO flattens fp32 masters and AdamW moments into groups. Stages 1 and 2 give each rank one range of a
group, stage 3 gives each rank one range of every parameter. Nothing is gathered here: the values are
views into DeepSpeed's own memory, to be written or filled in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from gemfit.train.checkpoint.dcp_planner import FlatShard


class Fragment(NamedTuple):
    """This rank's range of one parameter, and where it lies in a flat group."""

    flat: torch.nn.Parameter
    """The group's fp32 master weights on this rank; also the key of its optimizer state."""
    flat_start: int
    start: int
    """First element within the flattened parameter."""
    numel: int

    def of(self, group: torch.Tensor, shape: torch.Size) -> FlatShard:
        """The same range of ``group``, a tensor laid out like ``flat``: the weights or one of the moments."""
        return FlatShard(group.detach().narrow(0, self.flat_start, self.numel), self.start, shape)


def fragment_of(engine: Any, parameter: Any) -> Fragment | None:
    """The fragment of ``parameter`` on this rank; ``None`` when it holds nothing of it."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        group, flat_start, size = zero.grad_position[zero.get_param_id(parameter)]
        start = size * zero._get_param_partition_rank(parameter)
        numel = min(size, parameter.ds_numel - start)  # padding fills up the last ranks
        flat = zero.fp32_partitioned_groups_flat[group]
        return Fragment(flat, flat_start, start, numel) if numel > 0 else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    in_flat, in_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Fragment(flat, in_flat.start, in_parameter.start, in_flat.numel)


def fp32_groups(engine: Any) -> list[torch.nn.Parameter]:
    """The flattened fp32 groups of this rank: the parameters of the inner optimizer."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(zero.fp32_partitioned_groups_flat)
    return list(zero.single_partition_of_fp32_groups)


def frozen_shard(parameter: Any) -> FlatShard:
    """This rank's shard of a frozen parameter under stage 3; there is no fp32 master."""
    held = parameter.ds_tensor
    start = held.ds_numel * parameter.ds_zero_partition_rank
    numel = max(0, min(held.ds_numel, parameter.ds_numel - start))  # padding fills up the last ranks
    return FlatShard(held.detach().narrow(0, 0, numel), start, parameter.ds_shape)


def shape_of(parameter: Any) -> torch.Size:
    """Full shape of a parameter; stage 3 leaves an empty tensor in its place."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def regather_persistent(engine: Any) -> None:
    """Update the small parameters that stage 3 keeps gathered from their shards. Collective."""
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.checkpoint_event_prologue()
        engine.optimizer.checkpoint_event_epilogue()


def sync_parameters(engine: Any, step: int) -> None:
    """Copy loaded fp32 masters to the parameters of the forward pass; set step counts. Collective."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        zero.checkpoint_event_prologue()  # small parameters that stay gathered would keep old values
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()
    else:
        zero.update_lp_params()
    engine.global_steps = step
    engine.global_samples = step * engine.train_batch_size()
    engine.micro_steps = step * engine.gradient_accumulation_steps()
