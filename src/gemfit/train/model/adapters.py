"""LoRA adapters by peft: rsLoRA, DoRA, and modules that are trained whole, on a model without memory."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch

from gemfit.errors import UserError
from gemfit.schemas.recipe_model import Lora
from gemfit.train.distributed.meta_init import meta_as_cpu

ALL_LINEAR = "all-linear"
MAGNITUDE = "lora_magnitude_vector"
"""peft's name for the magnitudes of DoRA: the norm of each row of the matrix that is adapted."""
EMBEDDINGS = ("embed_tokens", "lm_head")


def add_adapters(model: Any, lora: Lora) -> Any:
    """A ``PeftModel`` around ``model``, whose parameters may be on the meta device; adapters are real.

    Magnitudes of DoRA over weights on the meta device are 0 until the weights are read. Raises ``UserError``
    for modules that the model does not have.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (a tenth of all imports, for LoRA alone)

    targets = adapted_modules(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(targets),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=saved_modules(model, lora) or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft uses a name that transformers has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # Copies of tied embeddings are tied below: peft would make a whole new layer for it.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        with meta_as_cpu(_linears(model, targets)):
            adapted = get_peft_model(model, config)
    if lora.modules_to_save and model.config.tie_word_embeddings:
        _tie_copies(adapted)
    return adapted


def adapted_modules(model: Any, lora: Lora) -> set[str]:
    """Names of the linear modules that get adapters; ``UserError`` where the model has no such one.

    The output layer is not among them: merging would break its tie with the embedding.
    """
    output = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
    if lora.targets == ALL_LINEAR:
        return linear
    if unknown := sorted(set(lora.targets) - linear):
        raise UserError(
            f"model.lora.targets: the model has no linear module {', '.join(unknown)}; "
            f"it has {', '.join(sorted(linear))}; {ALL_LINEAR} means all of them"
        )
    return set(lora.targets)


def saved_modules(model: Any, lora: Lora) -> list[str]:
    """The modules that are trained whole: both embeddings where they share a weight.

    Old versions of peft would leave the other one as it was.
    """
    tied = lora.modules_to_save and model.config.tie_word_embeddings
    return list(EMBEDDINGS) if tied else list(lora.modules_to_save)


@torch.no_grad()
def set_magnitudes(model: torch.nn.Module) -> None:
    """Set the magnitudes of DoRA to the row norms of weights in memory: adapters change nothing yet."""
    for name, parameter in model.named_parameters():
        layer = magnitude_owner(model, name)
        if layer is not None and not layer.weight.is_meta:
            weight = layer.dequantized() if hasattr(layer, "dequantized") else layer.weight
            parameter.copy_(row_norms(weight))


def magnitude_owner(model: torch.nn.Module, name: str) -> Any:
    """The linear layer whose magnitudes the parameter ``name`` has; ``None`` for another parameter."""
    path, found, _ = name.partition(f".{MAGNITUDE}.")
    return model.get_submodule(f"{path}.base_layer") if found else None


def row_norms(weight: torch.Tensor) -> torch.Tensor:
    """Norms of the rows of (outputs, inputs), in float32."""
    return torch.linalg.vector_norm(weight.float(), dim=1)


def _linears(model: Any, names: Collection[str]) -> Iterator[torch.nn.Module]:
    return (module for name, module in model.named_modules() if name.rpartition(".")[2] in names)


def _tie_copies(model: Any) -> None:
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    output.modules_to_save["default"].weight = embedding.modules_to_save["default"].weight
