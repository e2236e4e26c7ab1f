"""The self-test at start-up: what runs is what was planned.

Checked on the wrapped model itself, before the first step: the engine in use, that documents of a row
do not see each other, that the loss is the mean over trained tokens, that tied weights are tied, that
positions are exact, buffers sound, and gradients finite in every layer. It costs some forward passes of
``LENGTHS`` tokens and one backward pass, and touches neither weights nor random generators. All ranks do
the same passes, since FSDP2 and ZeRO-3 gather in each.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from gemfit.data.pack.reader import Row
from gemfit.schemas.strategy import Engine
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.data.collate import Tensors, collate
from gemfit.train.loop.validation import to_device
from gemfit.train.model.attention import check_gradient, check_in_use, check_isolation, gradient_norm
from gemfit.train.model.packed_lm import IGNORED
from gemfit.train.model.sharded_init import base_name, without_memory

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

logger = logging.getLogger(__name__)

LENGTHS = (37, 23)
"""Of the two documents of the test row; four places of padding follow."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}
"""Largest difference of logits, as a share of the largest logit: kernels differ with the length."""


def check(trainer: PackedTrainer) -> None:
    """Raise ``RuntimeError`` with what was found and what was expected. Collective.

    What is wrong with the attention is a ``UserError``: another one can be chosen.
    """
    recipe = trainer.plan.recipe
    found = engine_in_use(trainer.model_wrapped, trainer.accelerator.unwrap_model(trainer.model_wrapped))
    facts: dict[str, Any] = {"engine": found.model_dump()}
    # Each rank fails or none does: a rank that raises alone would leave the others in a forward pass.
    on_every_rank(lambda: _check_engine(found, recipe.strategy.engine))
    module, attention = trainer.accelerator.unwrap_model(trainer.model_wrapped), recipe.model.attention
    on_every_rank(lambda: check_module(module))
    on_every_rank(lambda: check_in_use(module, attention))
    if recipe.model.quantization is not None:
        facts["layers_in_4_bits"] = on_every_rank(lambda: check_quantized(module, trainer.args.device))[0]
    for mode in ("eval", "train"):
        facts[f"isolation_{mode}"] = check_leak(trainer, mode)
    facts["loss_scale"] = check_loss_scale(trainer)
    facts["gradient_norm"] = norm = probe(trainer)
    on_every_rank(lambda: check_gradient(norm, attention))
    if rank() == 0:
        logger.info("selftest %s", json.dumps(facts))


def engine_in_use(wrapped: Any, module: torch.nn.Module) -> Engine:
    """What ``wrapped`` really is, in the words of a strategy."""
    names = {cls.__name__ for cls in type(wrapped).__mro__}
    kinds = ("DistributedDataParallel", "FSDPModule", "DeepSpeedEngine")
    parameters = {type(parameter).__name__ for parameter in module.parameters()}
    return Engine.model_validate(
        {
            "model_class": next((kind for kind in kinds if kind in names), "plain"),
            "parameter_class": "DTensor" if "DTensor" in parameters else "Parameter",
            "zero_stage": wrapped.zero_optimization_stage() if "DeepSpeedEngine" in names else None,
        }
    )


def _check_engine(found: Engine, expected: Engine) -> None:
    if found != expected:
        raise RuntimeError(f"self-test: the engine is {found!r}, but the strategy asks for {expected!r}")


def check_module(module: Any) -> None:
    """``RuntimeError`` where tied weights are not tied, or a buffer is not what the model makes it."""
    embedding, output = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    if module.config.tie_word_embeddings and embedding is not output:
        raise RuntimeError(
            "self-test: input and output embeddings are tied in the configuration, not in memory"
        )
    for name, buffer in module.named_buffers():
        if "inv_freq" in name and buffer.dtype != torch.float32:
            raise RuntimeError(f"self-test: {name} is {buffer.dtype}; rotary positions need float32")
    _check_buffers(module.get_base_model() if hasattr(module, "get_base_model") else module)


def _check_buffers(model: Any) -> None:
    """Buffers that no file holds have the values that a new model computes for itself."""
    config = copy.deepcopy(model.config)
    fresh = dict(without_memory(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "eager").named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and not torch.equal(buffer.cpu(), fresh[str(base_name(name))]):
            raise RuntimeError(f"self-test: buffer {name} is not what {type(config).__name__} makes it")


def check_quantized(module: Any, device: torch.device) -> int:
    """How many layers are in 4 bits; ``RuntimeError`` where a frozen one is not, or a kernel is wrong."""
    from gemfit.train.model.qlora import check_layers  # noqa: PLC0415  (imports bitsandbytes)

    return check_layers(module, device)


def check_leak(trainer: PackedTrainer, mode: str) -> dict[str, float]:
    """How far documents are apart in ``mode`` (`eval`, `train`), which is within what is allowed."""
    with torch.no_grad():
        difference = _leak(trainer, train=mode == "train")
    on_every_rank(partial(_check_isolation, difference, mode, trainer))
    return difference


def check_loss_scale(trainer: PackedTrainer) -> float:
    """The loss of a step over the mean over its trained tokens, which is 1 as far as can be told."""
    with torch.no_grad():
        scale = _loss_scale(trainer)
    on_every_rank(lambda: _check_loss_scale(scale, trainer))
    return scale


def _leak(trainer: PackedTrainer, *, train: bool) -> dict[str, float]:
    """Share of the largest logit by which a document changes in company, and with other company."""
    ids = _random_ids(trainer, sum(LENGTHS))
    first, second = np.split(ids, [LENGTHS[0]])
    other = _random_ids(trainer, LENGTHS[0], seed=2)
    with _mode(trainer.model_wrapped, train=train):
        together = _logits(trainer, [first, second])
        alone = torch.cat([_logits(trainer, [document]) for document in (first, second)])
        beside_other = _logits(trainer, [other, second])
    scale = alone.abs().max()
    return {
        "against_alone": float((together - alone).abs().max() / scale),
        "against_other_company": float((together - beside_other)[LENGTHS[0] :].abs().max() / scale),
    }


def _check_isolation(leak: dict[str, float], mode: str, trainer: PackedTrainer) -> None:
    recipe = trainer.plan.recipe.model
    if not all(math.isfinite(difference) for difference in leak.values()):
        raise RuntimeError(
            f"self-test: logits are not finite in {mode} mode under attention {recipe.attention}: a weight "
            "was not read, or a kernel fails"
        )
    limits = {"against_alone": TOLERANCE[recipe.dtype], "against_other_company": 1e-5}
    check_isolation(leak, limits, mode, recipe.attention)


def probe(trainer: PackedTrainer) -> float:
    """Norm of a gradient of one row in training mode; see ``gradient_norm``."""
    batch = probe_batch(trainer)
    with _mode(trainer.model_wrapped, train=True):
        return gradient_norm(trainer, batch, int((batch["targets"] != IGNORED).sum()))


def probe_batch(trainer: PackedTrainer) -> Tensors:
    """One row of random tokens, equal on every rank, with its targets."""
    row = _batch(trainer, [_random_ids(trainer, n, seed=n) for n in LENGTHS])
    return to_device(row, trainer.args.device)


def _loss_scale(trainer: PackedTrainer) -> float:
    """Loss of a step cut into two uneven micro-batches, over the plain mean of all its tokens."""
    halves = [_batch(trainer, [_random_ids(trainer, n, seed=n)]) for n in LENGTHS]
    model, device = trainer.model_wrapped, trainer.args.device
    counts = [int((half["targets"] != IGNORED).sum()) for half in halves]
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
            trainer.compute_loss(model, to_device(half, device) | {"step_tokens": sum(counts)})
            for half in halves
        ]
    trainer.take_step_loss()
    return float(sum(losses)) / trainer.plan.batch.world_size / (reference / sum(counts))


def _check_loss_scale(scale: float, trainer: PackedTrainer) -> None:
    # In bfloat16 two passes over the same tokens may be cut into other kernels.
    if not abs(scale - 1) <= TOLERANCE[trainer.plan.recipe.model.dtype]:
        raise RuntimeError(
            f"self-test: the loss of a step is {scale:.6f} times the mean over its trained tokens, not 1"
        )


def _logits(trainer: PackedTrainer, documents: list[Any]) -> torch.Tensor:
    """Of one row of ``documents``, without its padding: (tokens, vocabulary), float32."""
    inputs = to_device(_batch(trainer, documents), trainer.args.device)
    inputs.pop("targets")
    logits: torch.Tensor = trainer.model_wrapped(**inputs).logits
    return logits.float().flatten(0, 1)[: sum(map(len, documents))]


def _batch(trainer: PackedTrainer, documents: list[Any]) -> Tensors:
    seq_len = sum(LENGTHS) + 4
    ids, labels = np.full(seq_len, trainer.pad_id, np.int32), np.full(seq_len, IGNORED, np.int32)
    packed = np.concatenate(documents).astype(np.int32)
    ids[: len(packed)], labels[1 : len(packed)] = packed, packed[1:]
    row = Row(ids, labels, np.array([len(document) for document in documents], np.int32))
    flatten = trainer.plan.recipe.model.attention.startswith("flash_attention")
    return collate([row], seq_len=seq_len, pad_id=trainer.pad_id, flatten=flatten)


def _random_ids(trainer: PackedTrainer, count: int, seed: int = 1) -> Any:
    """Equal on every rank, and drawn from a generator of its own."""
    vocabulary = trainer.accelerator.unwrap_model(trainer.model_wrapped).config.vocab_size
    return np.random.default_rng(seed).integers(0, vocabulary, count)


@contextmanager
def _mode(model: torch.nn.Module, *, train: bool) -> Iterator[None]:
    """The model in this mode, dropout aside, and afterwards as every module was."""
    before = [(module, module.training) for module in model.modules()]
    model.train(train)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    yield
    for module, training in before:
        module.training = training
