"""Whether this machine can train a plan as it says: enough GPUs, bfloat16 units, no CPU in place of a GPU."""

from __future__ import annotations

from gemfit.core.gpu_count import count_gpus
from gemfit.errors import UserError
from gemfit.schemas.plan import Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.compute_capability import BFLOAT16, Capability, capabilities_here, dotted
from gemfit_launch.planning.topology import Ranks, check_cpu_intended, check_gpus_present


def check_this_machine(ranks: Ranks, plan: Plan) -> None:
    """``UserError`` where ``plan``, made for ``ranks``, cannot run here."""
    check_gpus_present(plan.topology, visible_gpus=count_gpus())
    check_cpu_intended(ranks, plan.topology)
    check_bfloat16_here(plan)


def check_bfloat16_here(plan: Plan) -> None:
    """``UserError`` where GPUs of this machine would emulate bfloat16."""
    if plan.topology.device == "cuda":
        check_bfloat16(plan.recipe, plan.topology, capabilities_here())


def check_bfloat16(recipe: Recipe, topology: Topology, capabilities: list[Capability] | None) -> None:
    """``UserError`` where too few GPUs have bfloat16 units; unknown GPUs pass."""
    if recipe.model.dtype != "bfloat16" or capabilities is None:
        return
    able = sum(capability >= BFLOAT16 for capability in capabilities)
    if able < topology.ranks_per_node:
        lowest = dotted(min(capabilities))
        raise UserError(
            f"model.dtype bfloat16 needs GPUs of compute capability {dotted(BFLOAT16)} or more, and "
            f"{able} of {len(capabilities)} have it (the lowest: {lowest}); older ones emulate it slowly: "
            "set model.dtype=float32, or select others with CUDA_VISIBLE_DEVICES and --nproc"
        )
