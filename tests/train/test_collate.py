"""Rows become tensors in which positions restart with every document."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.utils import _to_kwargs

from gemfit.data.pack.reader import Row
from gemfit.train.data.collate import LOSS_SLICE_TOKENS, collate, document_lengths
from gemfit_launch.predict import activation_memory

SEQ_LEN = 16


def make_row(lengths: list[int]) -> Row:
    used = sum(lengths)
    ids = np.zeros(SEQ_LEN, np.int32)
    ids[:used] = np.arange(100, 100 + used)
    labels = np.where(ids > 0, ids, -100).astype(np.int32)
    labels[np.cumsum([0, *lengths[:-1]])] = -100  # nothing predicts the first token of a document
    return Row(ids, labels, np.array(lengths, np.int32))


documents = st.lists(st.integers(1, SEQ_LEN), min_size=1, max_size=6).filter(lambda x: sum(x) <= SEQ_LEN)


@given(rows=st.lists(st.none() | documents, min_size=1, max_size=4))
def test_positions_count_up_within_every_document_and_its_padding(rows: list[list[int] | None]) -> None:
    batch = collate(
        [None if r is None else make_row(r) for r in rows], seq_len=SEQ_LEN, pad_id=0, flatten=False
    )
    for place, lengths in enumerate(rows):
        parts = [*(lengths or []), SEQ_LEN - sum(lengths or [])]
        expected = [position for part in parts for position in range(part)]
        assert batch["position_ids"][place].tolist() == expected


@given(lengths=documents)
def test_a_target_is_the_next_token_of_the_same_document(lengths: list[int]) -> None:
    row = make_row(lengths)
    targets = collate([row], seq_len=SEQ_LEN, pad_id=0, flatten=False)["targets"][0]
    trained = (targets != -100).nonzero().flatten().tolist()
    assert len(trained) == (row.labels != -100).sum(), "every trained token has one place"
    last_of_documents = set((np.cumsum(lengths) - 1).tolist())
    assert not last_of_documents & set(trained)
    assert all(targets[place] == row.input_ids[place + 1] for place in trained)


@given(rows=st.lists(st.none() | documents, min_size=1, max_size=4))
def test_flattened_rows_say_the_same_with_boundaries(rows: list[list[int] | None]) -> None:
    made = [None if r is None else make_row(r) for r in rows]
    stacked = collate(made, seq_len=SEQ_LEN, pad_id=0, flatten=False)
    flat = collate(made, seq_len=SEQ_LEN, pad_id=0, flatten=True)
    for name, tensor in stacked.items():
        assert torch.equal(flat[name].flatten(), tensor.flatten())
    ends = flat["cu_seq_lens_q"]
    assert ends[0] == 0
    assert ends[-1] == SEQ_LEN * len(rows)
    # A boundary lies exactly where a position is zero.
    starts = (flat["position_ids"][0] == 0).nonzero().flatten()
    assert torch.equal(ends[:-1], starts.int())
    assert flat["max_length_q"] == int(ends.diff().max())


@pytest.mark.parametrize("flatten", [True, False])
def test_a_batch_arrives_whole_where_an_engine_moves_it_to_the_gpu(flatten: bool) -> None:
    batch = collate([make_row([5, 4]), None], seq_len=SEQ_LEN, pad_id=0, flatten=flatten)
    group = object()  # of ranks that share rows
    given: dict[str, Any] = batch | {"per_token": True, "sequence_group": group}
    (arguments,), (moved,) = _to_kwargs((), given, torch.device("meta"), False)
    assert arguments == ()
    assert {name for name, value in moved.items() if isinstance(value, torch.Tensor) and value.is_meta} == {
        name for name, value in given.items() if isinstance(value, torch.Tensor)
    }
    rest = {name for name, value in given.items() if not isinstance(value, torch.Tensor)}
    assert {name: moved[name] for name in rest} == {name: given[name] for name in rest}
    assert moved.keys() == given.keys()


def test_no_mask_is_made() -> None:
    batch = collate([make_row([5, 4])], seq_len=SEQ_LEN, pad_id=0, flatten=False)
    assert set(batch) == {"input_ids", "position_ids", "targets", "places"}


def test_an_empty_row_is_one_document_of_padding() -> None:
    assert document_lengths(None, SEQ_LEN).tolist() == [SEQ_LEN]


def test_boundaries_of_a_constant_number_do_not_depend_on_the_batch() -> None:
    batches = [
        collate([make_row(lengths), None], seq_len=SEQ_LEN, pad_id=0, flatten=True, documents=4)
        for lengths in ([5, 4], [2, 2, 3], [SEQ_LEN])
    ]
    first = batches[0]["cu_seq_lens_q"].tolist()
    assert first == [0, 5, 9, SEQ_LEN, 2 * SEQ_LEN] + 4 * [2 * SEQ_LEN]
    assert {len(batch["cu_seq_lens_q"]) for batch in batches} == {2 * 4 + 1}
    assert {batch["max_length_q"] for batch in batches} == {SEQ_LEN}
    assert all(batch["cu_seq_lens_q"].dtype == torch.int32 for batch in batches)


def test_the_predicted_logits_are_those_of_one_chunk_of_the_loss() -> None:
    assert activation_memory.LOSS_SLICE_TOKENS == LOSS_SLICE_TOKENS
