"""Self-test of sequence parallelism: rows in slices give what whole rows give on one rank.

A row of two documents, the first longer than the sliding window, passes through the model twice: whole on
each rank, and in slices with exchanged heads. Attention outputs of the first layer of each kind are compared
token by token and head by head, so that the places that differ name the fault; then the last hidden states.
Two forward passes of one and a half windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from gemfit.train.collective import on_every_rank
from gemfit.train.data.collate import Tensors, to_device
from gemfit.train.data.probe_rows import random_ids, whole_row
from gemfit.train.data.row_slices import SLICED, slice_rows
from gemfit.train.sequence_group import ALONE, SequenceGroup
from gemfit.train.trainer_view import SelfTestError, TrainerView

LIMIT = {"float32": 1e-4, "bfloat16": 1e-1}
"""Largest difference, as a share of the mean length of the vectors compared. Faults give some tenths; in
bfloat16 matrix products of slices round otherwise than those of whole rows, in every layer."""
WITHOUT_WINDOW = 64
"""Tokens that stand for the window of a model that has none."""
HIDDEN = "hidden states"
WAY_OUT = "train with strategy.sequence_parallel=1"


class ProbeRow(NamedTuple):
    """A whole row of two documents."""

    batch: Tensors
    lengths: tuple[int, ...]
    """Of its documents; padding follows."""


class Observed(NamedTuple):
    """What one pass gave, of whole rows."""

    attention: dict[str, torch.Tensor]
    """Before the output projection, by the name of the attention module: (tokens, heads, width)."""
    hidden: torch.Tensor
    """After the last layer: (tokens, width)."""


def check_slices(trainer: TrainerView) -> dict[str, float]:
    """The largest differences between slices and whole rows. Collective.

    ``SelfTestError`` names what differs: the slices, the mask, the window, positions, their order, or heads.
    """
    probe, sequence = make_probe(trainer), trainer.sequence
    slices = slice_rows(probe.batch, sequence)
    check_arguments(probe.batch, slices, sequence, trainer.args.device)
    whole, shared = observe(trainer, probe.batch, ALONE), observe(trainer, slices, sequence)
    on_every_rank(lambda: compare(whole, shared, probe, trainer))
    return {
        "attention": max(
            float(_differences(value, shared.attention[name]).max())
            for name, value in whole.attention.items()
        ),
        "hidden": float(_differences(whole.hidden, shared.hidden).mean()),
    }


def make_probe(trainer: TrainerView) -> ProbeRow:
    """A row of documents that cross the borders of all slices, no longer than those of the recipe."""
    config = trainer.accelerator.unwrap_model(trainer.model_wrapped).config
    window, degree = getattr(config, "sliding_window", None), trainer.sequence.degree
    wanted = -(-(window or WITHOUT_WINDOW) * 3 // (2 * degree)) * degree
    seq_len = min(wanted, trainer.plan.batch.seq_len)
    lengths = (seq_len * 5 // 6, seq_len // 8)
    documents = [random_ids(trainer, length, seed=length) for length in lengths]
    return ProbeRow(whole_row(trainer, documents, seq_len), lengths)


def check_arguments(whole: Tensors, slices: Tensors, sequence: SequenceGroup, device: torch.device) -> None:
    """``SelfTestError`` unless the slices of all ranks, in their order, are the whole row. Collective."""
    gathered = {name: sequence.gather(slices[name].to(device)).cpu() for name in SLICED}

    def check() -> None:
        for name, value in gathered.items():
            if not torch.equal(value, whole[name]):
                place = int((value != whole[name]).flatten().nonzero()[0])
                raise SelfTestError(
                    f"self-test: {name} of the slices of a row are not the whole row's from token {place} "
                    f"on: a slice is missing, swapped, or numbered by itself; {WAY_OUT}"
                )

    on_every_rank(check)


def observe(trainer: TrainerView, batch: Tensors, sequence: SequenceGroup) -> Observed:
    """One forward pass of ``batch``, slices gathered over ``sequence``. Collective."""
    module = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    inputs = to_device(batch, trainer.args.device)
    del inputs["targets"]
    seen: dict[str, torch.Tensor] = {}
    with _recorded(module, seen):
        trainer.model_wrapped(**inputs, logits_to_keep=1)
    whole = {name: sequence.gather(slices).flatten(0, 1) for name, slices in seen.items()}
    hidden = whole.pop(HIDDEN)
    heads = module.config.num_attention_heads
    return Observed({name: value.reshape(len(value), heads, -1) for name, value in whole.items()}, hidden)


def first_attentions(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of the first attention of each kind: with a sliding window, and without."""
    seen = set()
    for name, attention in module.named_modules():
        if hasattr(attention, "num_key_value_groups") and hasattr(attention, "o_proj"):
            kind = getattr(attention, "sliding_window", None)
            if kind not in seen:
                seen.add(kind)
                yield name, attention


def compare(whole: Observed, shared: Observed, probe: ProbeRow, trainer: TrainerView) -> None:
    """``SelfTestError`` where ``shared`` is not ``whole``."""
    limit, degree = LIMIT[trainer.plan.recipe.model.dtype], trainer.sequence.degree
    attentions = dict(first_attentions(trainer.accelerator.unwrap_model(trainer.model_wrapped)))
    for name, expected in whole.attention.items():
        wrong = ~(_differences(expected, shared.attention[name]) <= limit)  # NaN is wrong, too
        if wrong.any():
            window = getattr(attentions[name], "sliding_window", None)
            raise SelfTestError(
                f"self-test: {name} over {degree} slices of a row is not that of the whole row: "
                f"{diagnose(wrong, probe.lengths, window, degree)}; {WAY_OUT}, or another model.attention"
            )
    difference = float(_differences(whole.hidden, shared.hidden).mean())
    if not difference <= limit:
        raise SelfTestError(
            f"self-test: the last hidden states of {degree} slices of a row differ from those of the whole "
            f"row by {difference:.2g}, at most {limit:.2g} is expected; {WAY_OUT}"
        )


def diagnose(wrong: torch.Tensor, lengths: tuple[int, ...], window: int | None, degree: int) -> str:
    """The fault that makes these places differ. ``wrong``: (tokens, heads)."""
    heads, tokens, first = wrong.any(0), wrong.any(1).cpu(), lengths[0]
    inside = torch.cat([torch.arange(length) for length in (*lengths, len(tokens) - sum(lengths))])
    near = inside < window if window is not None else torch.ones_like(tokens)
    if not tokens[near].any():
        return f"tokens see further than the sliding window of {window}"
    if not (tokens & near)[:first].any():
        return "documents of a row see each other"
    if not heads.all():
        return f"heads {', '.join(map(str, heads.nonzero().flatten().tolist()))} are wrong, the others right"
    if not (tokens & near)[: len(tokens) // degree].any():
        return "positions are not those of the whole row"
    return "the slices are not in their order"


def _differences(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Length of the difference of each vector of the last dimension, in mean lengths of ``expected``."""
    expected, found = expected.float(), found.float()
    return (expected - found).norm(dim=-1) / expected.norm(dim=-1).mean()


@contextmanager
def _recorded(module: Any, into: dict[str, torch.Tensor]) -> Iterator[None]:
    """Record what enters output projections, and what leaves the last layer, inside."""

    def before(name: str, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        into[name] = inputs[0]

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        into[HIDDEN] = output.last_hidden_state

    hooks = [module.get_decoder().register_forward_hook(after)]
    for name, attention in first_attentions(module):
        hooks.append(attention.o_proj.register_forward_pre_hook(partial(before, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
