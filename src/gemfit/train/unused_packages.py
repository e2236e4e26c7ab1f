"""Hide installed packages that transformers and accelerate would import although a run does not use them.

They import datasets (for an ``isinstance``), scipy (for losses of object detection), boto3 (to train on
SageMaker, and TensorBoard for folders on S3), peft, which imports bitsandbytes, and deepspeed (to unwrap
models) wherever these are installed: a third of the CPU time of all imports. Imports no torch.
"""

from __future__ import annotations

from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_training import DERIVED_TRACKERS
from gemfit.schemas.strategy import DeepSpeed

UNUSED_BY_TRAINER = ("boto3", "datasets", "scipy")
"""Trackers may use them: they are hidden only while the training's own modules are imported."""


def unused_packages(recipe: Recipe) -> tuple[str, ...]:
    """Packages that no part of training ``recipe`` uses, among those that cost most to import."""
    unused = {
        "deepspeed": not isinstance(recipe.strategy, DeepSpeed),
        "peft": recipe.model.lora is None,
        "bitsandbytes": recipe.model.quantization is None,
        "boto3": set(recipe.tracking.report_to) <= {"tensorboard", *DERIVED_TRACKERS},
    }
    return tuple(name for name, is_unused in unused.items() if is_unused)
