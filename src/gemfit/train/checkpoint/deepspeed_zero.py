"""What a DeepSpeed ZeRO engine holds, by the names of the model's parameters.

ZeRO flattens fp32 masters and AdamW moments into groups. Stages 1 and 2 give each rank one range of a
group, stage 3 gives each rank one range of every parameter. Nothing is gathered here: the values are
views into DeepSpeed's own memory, to be written or filled in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from gemfit.train.checkpoint.dcp_planner import Piece


class Fragment(NamedTuple):
    """This rank's part of one parameter."""

    flat: torch.nn.Parameter
    """The group's fp32 master weights on this rank; also the key of its optimizer state."""
    flat_start: int
    start: int
    """First element within the flattened parameter."""
    numel: int

    def of(self, group: torch.Tensor, shape: torch.Size) -> Piece:
        """The same range of ``group``, which lies like ``flat``: the weights or one of the moments."""
        return Piece(group.detach().narrow(0, self.flat_start, self.numel), self.start, shape)


def fragment_of(engine: Any, parameter: Any) -> Fragment | None:
    """Where this rank keeps ``parameter``; ``None`` when it holds nothing of it."""
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


def groups(engine: Any) -> list[torch.nn.Parameter]:
    """The flattened fp32 groups of this rank: the parameters that the inner optimizer steps."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(zero.fp32_partitioned_groups_flat)
    return list(zero.single_partition_of_fp32_groups)


def frozen_piece(parameter: Any) -> Piece:
    """This rank's part of a parameter that stage 3 does not train; there is no fp32 master."""
    held = parameter.ds_tensor
    start = held.ds_numel * parameter.ds_zero_partition_rank
    numel = max(0, min(held.ds_numel, parameter.ds_numel - start))  # padding fills up the last ranks
    return Piece(held.detach().narrow(0, 0, numel), start, parameter.ds_shape)


def shape_of(parameter: Any) -> torch.Size:
    """Whole shape of a parameter; stage 3 leaves an empty tensor in its place."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def gather_again(engine: Any) -> None:
    """Let small parameters, which stage 3 keeps gathered, have what their shards now hold. Collective."""
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.checkpoint_event_prologue()
        engine.optimizer.checkpoint_event_epilogue()


def publish(engine: Any, step: int) -> None:
    """Carry filled-in fp32 masters over to the parameters that the forward pass uses. Collective."""
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
