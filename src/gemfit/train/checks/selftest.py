"""Start-up self-test: the prepared engine is the planned one and computes correctly.

Checked on the wrapped model itself, before the first step: the engine in use, no cross-document attention,
the loss is the mean over trained tokens, tied weights are tied, buffers have the right values, gradients are
finite in every layer, and slices of rows give what whole rows give. It costs some forward passes of
``LENGTHS`` tokens and one backward pass, and changes neither weights nor random generators. All ranks do the
same passes, since FSDP2 and ZeRO-3 gather in each.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from gemfit.data.document import IGNORED
from gemfit.schemas.strategy import Engine
from gemfit.train.checkpoint.engine_state import replica_of
from gemfit.train.checks.sequence_selftest import check_slices
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.data.collate import to_device
from gemfit.train.data.probe_rows import LENGTHS, probe_batch, random_ids, row_of
from gemfit.train.distributed.meta_init import init_on_meta
from gemfit.train.model.attention_checks import (
    check_gradient,
    check_in_use,
    check_isolation,
    embedding_gradient,
)
from gemfit.train.model.packed_lm import PackedCausalLM
from gemfit.train.model.sharded_init import base_name
from gemfit.train.sequence_group import ALONE
from gemfit.train.trainer_view import SelfTestError, TrainerView

logger = logging.getLogger(__name__)

ENGINES = ("DistributedDataParallel", "FSDPModule", "DeepSpeedEngine")
"""Classes that an engine wraps the model in, or mixes into its class."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}
"""Largest difference of logits, as a share of the largest logit: kernels differ with the length."""
GRADIENT_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-1}
"""Largest difference of a gradient, as a share of its norm; without what other ranks add it is about 1."""


def check(trainer: TrainerView) -> None:
    """Raise ``SelfTestError`` with what was found and what was expected. Collective.

    A failed attention check is a ``UserError``: another backend can be chosen.
    """
    recipe = trainer.plan.recipe
    module, attention = trainer.accelerator.unwrap_model(trainer.model_wrapped), recipe.model.attention
    # All ranks fail or none: a rank that raises alone would leave the others in a forward pass.
    found = on_every_rank(lambda: _check_engine(trainer.model_wrapped, module, trainer.plan.engine))[0]
    facts: dict[str, Any] = {"engine": found.model_dump()}
    on_every_rank(lambda: check_module(module))
    on_every_rank(lambda: check_frozen(module, getattr(torch, recipe.model.dtype)))
    on_every_rank(lambda: check_in_use(module, attention))
    if recipe.model.quantization is not None:
        facts["layers_in_4_bits"] = on_every_rank(lambda: check_quantized(module, trainer.args.device))[0]
    if trainer.sequence.degree > 1:
        with torch.no_grad(), _mode(trainer.model_wrapped, train=False):
            facts["slices"] = check_slices(trainer)
    for mode in ("eval", "train"):
        facts[f"isolation_{mode}"] = check_isolated(trainer, mode)
    facts["loss_scale"] = check_loss_scale(trainer)
    facts["gradient_norm"] = norm = float(probe_gradient(trainer).norm())
    on_every_rank(lambda: check_gradient(norm, attention))
    if trainer.sequence.degree > 1:
        facts["gradient_of_slices"] = apart = gradient_of_slices(trainer)
        on_every_rank(lambda: check_gradient_of_slices(apart, recipe.model.dtype))
    if rank() == 0:
        logger.info("selftest %s", json.dumps(facts))


def engine_in_use(wrapped: Any, module: Any) -> Engine:
    """The engine that ``wrapped`` is, in the terms of a strategy; ``SelfTestError`` for any other wrapper."""
    parameters = {type(parameter).__name__ for parameter in module.parameters()}
    kind = _wrapper(wrapped)
    return Engine.model_validate(
        {
            "model_class": kind,
            "parameter_class": "DTensor" if "DTensor" in parameters else "Parameter",
            "zero_stage": wrapped.zero_optimization_stage() if kind == "DeepSpeedEngine" else None,
            "replicas": max(replica_of(parameter)[1] for parameter in module.parameters()),
        }
    )


def _wrapper(wrapped: Any) -> str:
    """Class of the engine around the model; `plain` is a ``PackedCausalLM``, with or without adapters."""
    names = {cls.__name__ for cls in type(wrapped).__mro__}
    if known := [kind for kind in ENGINES if kind in names]:
        return known[0]
    inner = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    if not isinstance(inner, PackedCausalLM):
        raise SelfTestError(
            f"self-test: the engine is {type(wrapped).__name__}, which is not one of a strategy: "
            f"{', '.join(ENGINES)}, or the model itself"
        )
    return "plain"


def _check_engine(wrapped: Any, module: Any, expected: Engine) -> Engine:
    found = engine_in_use(wrapped, module)
    if found != expected:
        raise SelfTestError(f"self-test: the engine is {found!r}, but the strategy asks for {expected!r}")
    return found


def check_module(module: Any) -> None:
    """``SelfTestError`` where tied weights are not tied, or a buffer has a wrong value or dtype."""
    embedding, output = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    if module.config.tie_word_embeddings and embedding is not output:
        raise SelfTestError(
            "self-test: input and output embeddings are tied in the configuration, not in memory"
        )
    for name, buffer in module.named_buffers():
        if "inv_freq" in name and buffer.dtype != torch.float32:
            raise SelfTestError(f"self-test: {name} is {buffer.dtype}; rotary positions need float32")
    _check_buffers(module.get_base_model() if hasattr(module, "get_base_model") else module)


def check_frozen(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """``SelfTestError`` where a frozen parameter is not in the compute dtype: an engine has cast it."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad and parameter.dtype != dtype:
            raise SelfTestError(f"self-test: {name} is frozen and {parameter.dtype}, not {dtype}")


def _check_buffers(model: Any) -> None:
    """Buffers that are not saved must equal those of a new model."""
    config = copy.deepcopy(model.config)
    fresh = dict(init_on_meta(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "eager").named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and not torch.equal(buffer.cpu(), fresh[str(base_name(name))]):
            raise SelfTestError(f"self-test: buffer {name} is not what {type(config).__name__} computes")


def check_quantized(module: Any, device: torch.device) -> int:
    """Number of 4-bit layers; ``SelfTestError`` where a frozen one is not, or a kernel is wrong."""
    from gemfit.train.model.qlora import check_layers  # noqa: PLC0415  (imports bitsandbytes)

    return check_layers(module, device)


def check_isolated(trainer: TrainerView, mode: str) -> dict[str, float]:
    """Differences of logits by neighbouring documents in ``mode`` (`eval`, `train`), within the limits."""
    with torch.no_grad():
        difference = _isolation(trainer, train=mode == "train")
    on_every_rank(partial(_check_isolation, difference, mode, trainer))
    return difference


def check_loss_scale(trainer: TrainerView) -> float:
    """The loss of a step divided by the mean over its trained tokens: 1 within the tolerance."""
    with torch.no_grad():
        scale = _loss_scale(trainer)
    on_every_rank(lambda: _check_loss_scale(scale, trainer))
    return scale


def _isolation(trainer: TrainerView, *, train: bool) -> dict[str, float]:
    """Change of a document's logits by a neighbour, and by another one, as a share of the largest logit."""
    ids = random_ids(trainer, sum(LENGTHS))
    first, second = np.split(ids, [LENGTHS[0]])
    other = random_ids(trainer, LENGTHS[0], seed=2)
    with _mode(trainer.model_wrapped, train=train):
        together = _logits(trainer, [first, second])
        alone = torch.cat([_logits(trainer, [document]) for document in (first, second)])
        with_other = _logits(trainer, [other, second])
    scale = alone.abs().max()
    return {
        "against_alone": float((together - alone).abs().max() / scale),
        "against_other_company": float((together - with_other)[LENGTHS[0] :].abs().max() / scale),
    }


def _check_isolation(leak: dict[str, float], mode: str, trainer: TrainerView) -> None:
    recipe = trainer.plan.recipe.model
    if not all(math.isfinite(difference) for difference in leak.values()):
        raise SelfTestError(
            f"self-test: logits are not finite in {mode} mode under attention {recipe.attention}: a weight "
            "was not read, or a kernel fails"
        )
    limits = {"against_alone": TOLERANCE[recipe.dtype], "against_other_company": 1e-5}
    check_isolation(leak, limits, mode, recipe.attention)


def probe_gradient(trainer: TrainerView, *, whole: bool = False) -> torch.Tensor:
    """Gradient of one row in training mode, see ``embedding_gradient``: (rows, tokens, width). Collective.

    With sequence parallelism that of its slices, gathered, unless ``whole``.
    """
    batch = probe_batch(trainer, whole=whole)
    sequence = ALONE if whole else trainer.sequence
    tokens = round(sequence.sum(int((batch["targets"] != IGNORED).sum()), trainer.args.device))
    with _mode(trainer.model_wrapped, train=True):
        return sequence.gather(embedding_gradient(trainer, batch, tokens))


def gradient_of_slices(trainer: TrainerView) -> float:
    """Difference of the gradients of slices and of the whole row, as a share of their norm. Collective."""
    expected = probe_gradient(trainer, whole=True)
    return float((probe_gradient(trainer) - expected).norm() / expected.norm())


def check_gradient_of_slices(apart: float, dtype: str) -> None:
    """``SelfTestError`` where the gradients of slices are not those of the whole row."""
    if not apart <= GRADIENT_TOLERANCE[dtype]:
        raise SelfTestError(
            f"self-test: gradients of slices of a row differ from those of the whole row by {apart:.2g}, at "
            f"most {GRADIENT_TOLERANCE[dtype]:.2g} is expected; train with strategy.sequence_parallel=1"
        )


def _loss_scale(trainer: TrainerView) -> float:
    """Loss of a step of two uneven accumulation steps, divided by the plain mean over its tokens."""
    halves = [row_of(trainer, [random_ids(trainer, n, seed=n)]) for n in LENGTHS]
    model, device = trainer.model_wrapped, trainer.args.device
    mine = sum(int((half["targets"] != IGNORED).sum()) for half in halves)
    tokens = round(trainer.sequence.sum(mine, device))  # a slice of a row may hold none
    reference = 0.0
    with _mode(model, train=False):
        for half in halves:
            inputs = to_device(half, device)
            targets = inputs.pop("targets").flatten()
            logits = model(**inputs).logits.float().flatten(0, 1)
            reference += float(
                functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
            )
        losses = [
            trainer.compute_loss(model, to_device(half, device) | {"step_tokens": tokens}) for half in halves
        ]
    trainer.take_step_loss()
    found, reference = (trainer.sequence.sum(float(value), device) for value in (sum(losses), reference))
    return found / trainer.plan.batch.world_size / (reference / tokens)


def _check_loss_scale(scale: float, trainer: TrainerView) -> None:
    # In bfloat16 two passes over the same tokens may use different kernels.
    if not abs(scale - 1) <= TOLERANCE[trainer.plan.recipe.model.dtype]:
        raise SelfTestError(
            f"self-test: the loss of a step is {scale:.6f} times the mean over its trained tokens, not 1"
        )


def _logits(trainer: TrainerView, documents: list[Any]) -> torch.Tensor:
    """Logits of one row of ``documents``, without its padding: (tokens, vocabulary), float32."""
    inputs = to_device(row_of(trainer, documents), trainer.args.device)
    inputs.pop("targets")
    logits: torch.Tensor = trainer.sequence.gather(trainer.model_wrapped(**inputs).logits.float())
    return logits.flatten(0, 1)[: sum(map(len, documents))]


@contextmanager
def _mode(model: torch.nn.Module, *, train: bool) -> Iterator[None]:
    """Set the model to train or eval mode inside, always without dropout; restore every module after."""
    before = [(module, module.training) for module in model.modules()]
    model.train(train)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    yield
    for module, training in before:
        module.training = training
