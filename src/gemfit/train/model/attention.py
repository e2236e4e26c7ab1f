"""The attention that a plan names is the one that runs, it isolates documents, and its gradients are sound.

No other backend ever takes its place: what is not there, leaks or gives no number ends the run with a way
out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

from gemfit.errors import UserError
from gemfit.train.data.collate import Tensors

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

PACKAGES = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3"}


def prepare_attention(device: str) -> None:
    """Keep torch from a backend that is known to give no numbers; call it before the first forward pass.

    cuDNN's attention returns NaN gradients for masked rows on H100 (pytorch #196678).
    """
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def way_out(attention: str) -> str:
    """What a person can do where ``attention`` does not work."""
    other = "eager" if attention == "sdpa" else "sdpa"
    package = f", or install {PACKAGES[attention]}" if attention in PACKAGES else ""
    return f"set model.attention to {other}{package}"


def not_there(attention: str, error: Exception) -> UserError:
    """The error for a backend that transformers refuses."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    first = first.partition(". ")[0]  # what follows is advice about other models
    return UserError(f"model.attention: {attention} cannot be used: {first}; {way_out(attention)}")


def check_in_use(module: Any, attention: str) -> None:
    """``UserError`` unless ``module`` computes with ``attention``, or with the same from the hub."""
    used = module.config._attn_implementation
    if used not in (attention, FLASH_ATTN_KERNEL_FALLBACK.get(attention)):
        raise UserError(
            f"self-test: attention is {used}, but the plan says {attention}; {way_out(attention)}"
        )


def check_isolation(leak: dict[str, float], limits: dict[str, float], mode: str, attention: str) -> None:
    """``UserError`` where a document changes with its company by more than ``limits``."""
    for what, limit in limits.items():
        if leak[what] > limit:
            raise UserError(
                f"self-test: documents of a row see each other in {mode} mode under attention "
                f"{attention}: logits differ by {leak[what]:.2g} of the largest ({what}), "
                f"at most {limit:.2g} is expected; {way_out(attention)}"
            )


def gradient_norm(trainer: PackedTrainer, batch: Tensors, trained: int) -> float:
    """Norm of the gradient at the embedding's output, through all layers; no parameter gets a gradient.

    Collective. A kernel whose backward pass gives no number in any layer makes it none here.
    """
    # Around it, DDP and DeepSpeed would wait for gradients of parameters.
    module = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with _output_of(module.get_input_embeddings()) as held:
        loss = trainer.compute_loss(module, batch | {"step_tokens": trained})
        (gradient,) = torch.autograd.grad(loss, held)
    trainer.take_step_loss()
    return float(gradient.float().norm())


def check_gradient(norm: float, attention: str) -> None:
    """``UserError`` where ``norm`` is no number."""
    if not math.isfinite(norm):
        raise UserError(
            f"self-test: gradients are not finite under attention {attention}: a kernel fails in the "
            f"backward pass; {way_out(attention)}"
        )


@contextmanager
def _output_of(embedding: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """What ``embedding`` returns inside; it asks for a gradient even where the weights need none."""
    held: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        held.append(output if output.requires_grad else output.requires_grad_())
        return held[-1]

    hook = embedding.register_forward_hook(keep)
    try:
        yield held
    finally:
        hook.remove()
