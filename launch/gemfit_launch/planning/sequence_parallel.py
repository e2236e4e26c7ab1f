"""What of a recipe works with sequence parallelism, and what does not."""

from __future__ import annotations

from gemfit.schemas.batch import Batch
from gemfit.schemas.head_division import heads_problem
from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit_launch.predict.shape_lookup import find_shape


def sequence_parallel_problems(recipe: Recipe) -> list[str]:
    """Settings that do not work with ``strategy.sequence_parallel``; none where it is 1.

    Heads are looked at where the shape of the model is known here; a rank looks again.
    """
    degree, model = recipe.strategy.sequence_parallel, recipe.model
    if degree == 1:
        return []
    problems = []
    shape = find_shape(model).shape
    if shape is not None and (problem := heads_problem(degree, shape.num_heads)) is not None:
        problems.append(problem)
    if model.lora is not None and model.lora.dropout:
        problems.append(
            f"model.lora.dropout is {model.lora.dropout:g}, and under strategy.sequence_parallel dropout "
            "would differ with the degree; set model.lora.dropout to 0"
        )
    if model.compile:
        problems.append("model.compile is not proven with strategy.sequence_parallel; use one of them")
    return problems


def sequence_parallel_warnings(batch: Batch, topology: Topology) -> list[str]:
    """A group that spans nodes exchanges heads over the network, in every layer."""
    degree = batch.sequence_parallel
    if topology.ranks_per_node % degree == 0:
        return []
    return [
        f"strategy.sequence_parallel {degree} over {topology.ranks_per_node} ranks per node: some groups "
        "span nodes, and exchange the heads of every layer over the network"
    ]
