"""Attention checks: the planned backend runs, isolates documents, and has finite gradients.

There is no fallback to another backend: one that is missing, leaks or gives NaN ends the run with advice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

from gemfit.errors import UserError
from gemfit.train.data.collate import Tensors
from gemfit.train.model.attention_functions import register_attention
from gemfit.train.trainer_view import TrainerView

PACKAGES = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3"}


def prepare_attention(device: str) -> None:
    """Register gemfit's attention functions and disable a backend of torch that returns NaN.

    Call it before a model is built. cuDNN's attention returns NaN gradients for masked rows on H100
    (pytorch #196678).
    """
    register_attention()
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def advice(attention: str) -> str:
    """What to change where ``attention`` does not work."""
    other = "eager" if attention == "sdpa" else "sdpa"
    package = f", or install {PACKAGES[attention]}" if attention in PACKAGES else ""
    return f"set model.attention to {other}{package}"


def unavailable(attention: str, error: Exception) -> UserError:
    """The error for a backend that transformers cannot load."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    first = first.partition(". ")[0]  # the rest of the message is about other models
    return UserError(f"model.attention: {attention} cannot be used: {first}; {advice(attention)}")


def check_in_use(module: Any, attention: str) -> None:
    """``UserError`` unless ``module`` computes with ``attention``, or with the same kernel from the hub."""
    used = module.config._attn_implementation
    if used not in (attention, FLASH_ATTN_KERNEL_FALLBACK.get(attention)):
        raise UserError(f"self-test: attention is {used}, but the plan says {attention}; {advice(attention)}")


def check_isolation(leak: dict[str, float], limits: dict[str, float], mode: str, attention: str) -> None:
    """``UserError`` where logits of a document depend on its neighbours by more than ``limits``."""
    for what, limit in limits.items():
        if leak[what] > limit:
            raise UserError(
                f"self-test: documents of a row see each other in {mode} mode under attention "
                f"{attention}: logits differ by {leak[what]:.2g} of the largest ({what}), "
                f"at most {limit:.2g} is expected; {advice(attention)}"
            )


def embedding_gradient(trainer: TrainerView, batch: Tensors, trained: int) -> torch.Tensor:
    """The gradient at the embedding's output, through all layers; no parameter gets a gradient.

    In float32: (rows, tokens, width). Collective. A kernel whose backward pass gives NaN in any layer makes
    it NaN.
    """
    # Not the wrapped model: DDP and DeepSpeed would wait for gradients of parameters.
    module = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with _output_of(module.get_input_embeddings()) as outputs:
        loss = trainer.compute_loss(module, batch | {"step_tokens": trained})
        (gradient,) = torch.autograd.grad(loss, outputs)
    trainer.take_step_loss()
    found: torch.Tensor = gradient.float()
    return found


def check_gradient(norm: float, attention: str) -> None:
    """``UserError`` where ``norm`` is not finite."""
    if not math.isfinite(norm):
        raise UserError(
            f"self-test: gradients are not finite under attention {attention}: a kernel fails in the "
            f"backward pass; {advice(attention)}"
        )


@contextmanager
def _output_of(embedding: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of ``embedding`` inside; they require a gradient even where the weights do not."""
    outputs: list[torch.Tensor] = []

    def record(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        outputs.append(output if output.requires_grad else output.requires_grad_())
        return outputs[-1]

    hook = embedding.register_forward_hook(record)
    try:
        yield outputs
    finally:
        hook.remove()
