"""Chunks of fragments: every fragment once, no row overfull, and rows fuller than with longest chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.packing.best_fit import pack
from gemfit.data.packing.chunk_packing import Fragments, PackedChunks, pack_chunks

SEQ_LEN = 64


@st.composite
def fragments(draw: st.DrawFn) -> Fragments:
    """Conversations of one or more fragments, each of which fits into a row."""
    lengths, context, continues = [], [], []
    for parts in draw(st.lists(st.integers(1, 12), max_size=40)):
        for part in range(parts):
            before = draw(st.integers(1, SEQ_LEN // 2)) if part else 0
            lengths.append(before + draw(st.integers(1, SEQ_LEN - before)))
            context.append(before)
            continues.append(part > 0)
    return Fragments(np.array(lengths, np.int32), np.array(context, np.int32), np.array(continues, np.bool_))


def chunk_lengths(fragments: Fragments, packed: PackedChunks) -> list[int]:
    bodies = fragments.lengths - fragments.context
    return [
        int(fragments.context[first] + bodies[first : first + count].sum())
        for first, count in zip(packed.first, packed.num_fragments, strict=True)
    ]


@settings(max_examples=300)
@given(fragments=fragments(), tight=st.booleans())
def test_every_fragment_is_in_one_chunk_and_no_row_is_overfull(fragments: Fragments, tight: bool) -> None:
    packed = pack_chunks(fragments, SEQ_LEN, tight=tight)
    chunks = zip(packed.first, packed.num_fragments, strict=True)
    assert sorted(i for first, count in chunks for i in range(first, first + count)) == list(
        range(len(fragments.lengths))
    )
    assert packed.lengths.tolist() == chunk_lengths(fragments, packed)
    assert (np.bincount(packed.row, weights=packed.lengths, minlength=0) <= SEQ_LEN).all()
    assert set(packed.row.tolist()) == set(range(max(packed.row.tolist(), default=-1) + 1))


@settings(max_examples=300)
@given(fragments=fragments(), tight=st.booleans())
def test_a_chunk_is_of_one_conversation(fragments: Fragments, tight: bool) -> None:
    packed = pack_chunks(fragments, SEQ_LEN, tight=tight)
    for first, count in zip(packed.first, packed.num_fragments, strict=True):
        assert fragments.continues[first + 1 : first + count].all()


@settings(max_examples=300)
@given(fragments=fragments())
def test_never_more_rows_than_with_longest_chunks(fragments: Fragments) -> None:
    packed = pack_chunks(fragments, SEQ_LEN)
    assert max(packed.row.tolist(), default=-1) + 1 <= rows_of_longest_chunks(fragments, SEQ_LEN)


@given(fragments=fragments())
def test_chunks_are_sorted_by_row_and_input_order(fragments: Fragments) -> None:
    packed = pack_chunks(fragments, SEQ_LEN)
    keys = list(zip(packed.row.tolist(), packed.first.tolist(), strict=True))
    assert keys == sorted(keys)


def conversations(count: int, seed: int) -> Fragments:
    """Ten exchanges of some 60 tokens each, after 30 tokens of system message: rows of 512 hold seven."""
    rng = np.random.default_rng(seed)
    bodies = rng.integers(20, 101, (count, 10))
    context = np.tile(np.array([0] + [30] * 9), count)
    continues = np.tile(np.arange(10) > 0, count)
    return Fragments((bodies.ravel() + context).astype(np.int32), context.astype(np.int32), continues)


def rows_of_longest_chunks(fragments: Fragments, seq_len: int) -> int:
    """Rows where each chunk takes as many fragments as fit, and best fit packs the chunks."""
    chunks: list[int] = []
    for length, context, continues in zip(*map(np.ndarray.tolist, fragments), strict=True):
        if continues and chunks[-1] + length - context <= seq_len:
            chunks[-1] += length - context
        else:
            chunks.append(length)
    return max(pack(np.array(chunks, np.int32), seq_len).tolist(), default=-1) + 1


def test_rows_of_long_conversations_are_fuller_than_with_longest_chunks() -> None:
    fragments = conversations(300, seed=3)
    packed = pack_chunks(fragments, 1024)
    rows = int(packed.row.max()) + 1
    assert packed.lengths.sum() / (rows * 1024) > 0.98
    assert rows < 0.8 * rows_of_longest_chunks(fragments, 1024)


def test_a_single_long_conversation_takes_the_fewest_rows() -> None:
    fragments = conversations(1, seed=1)
    packed = pack_chunks(fragments, 512)
    assert int(packed.row.max()) + 1 == rows_of_longest_chunks(fragments, 512) == len(packed.row) == 2


def test_whole_conversations_alone_are_packed_best_fit_decreasing() -> None:
    lengths = np.random.default_rng(1).integers(1, SEQ_LEN + 1, 500).astype(np.int32)
    whole = Fragments(lengths, np.zeros(500, np.int32), np.zeros(500, np.bool_))
    packed = pack_chunks(whole, SEQ_LEN)
    rows = np.empty(500, np.int32)
    rows[packed.first] = packed.row
    assert rows.tolist() == pack(lengths, SEQ_LEN).tolist()


def test_rows_of_conversations_with_mid_message_cuts_are_full() -> None:
    rng = np.random.default_rng(5)
    # 200 conversations of 80 cuts, each after some 100 tokens and with 30 to 200 tokens to repeat.
    bodies, context = rng.integers(60, 130, (200, 80)), rng.integers(30, 201, (200, 80))
    context[:, 0] = 0
    continues = np.tile(np.arange(80) > 0, 200)
    lengths = (bodies + context).ravel().astype(np.int32)
    fragments = Fragments(lengths, context.ravel().astype(np.int32), continues)
    fills = [
        packed.lengths.sum() / ((int(packed.row[-1]) + 1) * 1024)
        for packed in (pack_chunks(fragments, 1024), pack_chunks(fragments, 1024, tight=True))
    ]
    assert fills[1] > max(fills[0] + 0.005, 0.994)


def test_more_long_conversations_than_the_window_are_all_packed() -> None:
    fragments = conversations(400, seed=2)
    packed = pack_chunks(fragments, 512)
    assert packed.num_fragments.sum() == 4000
