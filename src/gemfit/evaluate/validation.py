"""Loss and hits of every turn in packed rows, on one rank or many.

Batches are those of one rank whatever the number of ranks, which take them in turn, or share each row. Sums
are in float64 and in the order of the rows, so the figures do not depend on the ranks. No logits are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import PackedRows
from gemfit.evaluate.turn_losses import TurnSpan
from gemfit.schemas.plan import Plan
from gemfit.train.collective import on_every_rank, rank, world_size
from gemfit.train.data.batches import batch_of
from gemfit.train.data.collate import Tensors, to_device
from gemfit.train.data.row_slices import slice_rows
from gemfit.train.model.ulysses import use_sequence_parallel
from gemfit.train.sequence_group import ALONE, SequenceGroup, make_sequence_group

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TurnSums:
    """Sums of each turn that has trained tokens. Arrays: (turns,)."""

    document: NDArray[np.int64]
    role: NDArray[np.str_]
    turn: NDArray[np.int64]
    loss: Floats
    """Sum of cross-entropies, in nats."""
    hits: Floats
    """Tokens that were the argmax."""
    tokens: Floats

    def only(self, which: NDArray[np.bool_]) -> TurnSums:
        """The selected turns."""
        return TurnSums(*(getattr(self, name)[which] for name in self.__slots__))


def make_row_group(model: Any, plan: Plan) -> SequenceGroup:
    """The ranks that share each row with this one: as many as in training, if ranks and heads divide by them.

    Else the largest divisor of that number; one rank, ``ALONE``, for each row that training did not share.
    Lets the attention of ``model`` exchange heads. Collective.
    """
    degree = math.gcd(plan.batch.sequence_parallel, world_size(), model.config.num_attention_heads)
    if degree > 1:
        use_sequence_parallel(model, degree)
    return make_sequence_group(degree)


def turn_sums(
    model: Any,
    plan: Plan,
    pack: PackedRows,
    rows: NDArray[np.int64],
    turns: Mapping[int, Sequence[TurnSpan]],
    *,
    pad_id: int,
    progress: Callable[[int], object],
    sequence: SequenceGroup = ALONE,
) -> TurnSums:
    """Sums of the turns in ``rows``, equal on every rank. Collective.

    ``model`` is ``Packed``; all ranks make the same number of forward passes, some of them of empty rows.
    ``progress`` gets the number of rows that all ranks have done since the last call. The ranks of
    ``sequence`` share each row; see ``make_row_group``.
    """
    found: list[tuple[int, tuple[Any, ...]]] = []
    for places in _rounds(len(rows), plan.batch.per_device_batch_size, sequence.degree):
        numbers = np.where(places < len(rows), rows[np.minimum(places, len(rows) - 1)], -1)
        figures = _figures_per_token(model, batch_of(pack, numbers, plan, pad_id), sequence)
        if sequence.place == 0:
            for place, number, sums in zip(
                places.tolist(), numbers.tolist(), np.split(figures, len(places), 1), strict=True
            ):
                found += [(place, turn) for turn in _turns_of_row(turns.get(number, ()), sums)]
        progress(min(len(places) * (world_size() // sequence.degree), len(rows)))
    return _gathered(found)


@torch.no_grad()
def _figures_per_token(model: Any, batch: Tensors, sequence: SequenceGroup) -> Floats:
    """Loss, hit and count of every token with a target, 0 elsewhere: (3, tokens of all rows)."""
    inputs = to_device(slice_rows(batch, sequence), next(model.parameters()).device)
    output = model(**inputs, per_token=True)
    counted = inputs["targets"] != IGNORED
    local = torch.stack([output.losses, output.hits & counted, counted], -1)
    return sequence.gather(local).flatten(0, 1).T.cpu().numpy().astype(np.float64)


def _rounds(count: int, per_device_batch_size: int, degree: int) -> Iterator[NDArray[np.int64]]:
    """The places of this rank's batches; every rank makes as many, and ``degree`` neighbours the same."""
    step = per_device_batch_size * (world_size() // degree)
    for start in range(0, count, step):
        first = start + rank() // degree * per_device_batch_size
        yield np.arange(first, first + per_device_batch_size)


def _turns_of_row(spans: Sequence[TurnSpan], sums: Floats) -> Iterator[tuple[Any, ...]]:
    """Document, role, turn and sums of each span with trained tokens. ``sums``: (3, seq_len)."""
    for document, role, turn, start, stop in spans:
        # The loss of a token stands one place earlier, where it is predicted.
        loss, hits, tokens = sums[:, max(start - 1, 0) : stop - 1].sum(axis=1).tolist()
        if tokens:
            yield document, role, turn, loss, hits, tokens


def _gathered(local: list[tuple[int, tuple[Any, ...]]]) -> TurnSums:
    """The sums of all ranks, in the order of the rows."""
    parts = on_every_rank(lambda: local)
    found = [turn for _, turn in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]
    columns = list(zip(*found, strict=True)) or [()] * 6
    document, role, number, *figures = columns
    loss, hits, tokens = (np.array(column, np.float64) for column in figures)
    return TurnSums(
        np.array(document, np.int64), np.array(role, np.str_), np.array(number, np.int64), loss, hits, tokens
    )
