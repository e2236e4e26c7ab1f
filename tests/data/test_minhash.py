"""MinHash and LSH: near-duplicates are found, others are not merged, and the input order does not matter."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.dedup.groups import merge_groups
from gemfit.data.dedup.lsh import near_duplicate_groups
from gemfit.data.dedup.minhash import NUM_HASHES, SHINGLE, signatures
from gemfit.data.dedup.signatures import Signatures, band_width
from gemfit.data.jsonl.line_settings import ROLES

RoleTokens = list[tuple[str, list[int]]]
"""Roles and token ids."""


@functools.cache
def spawned() -> ProcessPoolExecutor:
    """A process for rensa: its thread pool would block forever in processes that later tests fork."""
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    atexit.register(executor.shutdown)
    return executor


def signatures_of(conversations: list[RoleTokens], num_hashes: int = 64) -> NDArray[np.uint32]:
    messages = [message for conversation in conversations for message in conversation]
    columns = (
        np.array([token for _, ids in messages for token in ids], np.uint32),
        np.cumsum([len(ids) for _, ids in messages]).astype(np.int64),
        np.cumsum([len(conversation) for conversation in conversations]).astype(np.int64),
        np.array([ROLES.index(role) for role, _ in messages], np.uint8),
        num_hashes,
    )
    return spawned().submit(signatures, *columns).result()


def stored_signatures(values: NDArray[np.uint32], threshold: float = 0.8) -> Signatures:
    """Signatures on disk, as the builder stores them."""
    found = Signatures(values.shape[1], threshold)
    for some in np.array_split(values, 3):
        found.append(some)
    return found


def input_order(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def groups_of(conversations: list[RoleTokens], threshold: float = 0.8) -> list[int]:
    groups = near_duplicate_groups(
        stored_signatures(signatures_of(conversations), threshold), input_order(len(conversations))
    )
    return [int(group) for group in groups]


def random_tokens(rng: np.random.Generator, count: int) -> list[int]:
    return [int(word) for word in rng.integers(1, 50_000, count)]


def with_changed_tokens(rng: np.random.Generator, conversation: RoleTokens, count: int) -> RoleTokens:
    """The same with some tokens of its last message replaced."""
    *rest, (role, ids) = conversation
    ids = list(ids)
    for place in rng.choice(len(ids), count, replace=False):
        ids[place] += 50_000
    return [*rest, (role, ids)]


def random_conversation(rng: np.random.Generator, length: int = 200) -> RoleTokens:
    return [("user", random_tokens(rng, 30)), ("assistant", random_tokens(rng, length))]


def jaccard(one: RoleTokens, other: RoleTokens) -> float:
    """Exact Jaccard similarity of the shingles of two conversations."""

    def shingles(conversation: RoleTokens) -> set[tuple[int, ...]]:
        spoken = [ids for role, ids in conversation if role != "system" and ids]
        return {
            tuple(ids[at : at + SHINGLE]) for ids in spoken for at in range(max(1, len(ids) - SHINGLE + 1))
        }

    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


@pytest.mark.parametrize("num_hashes", sorted(set(NUM_HASHES.values())))
def test_equal_values_estimate_the_jaccard_similarity(num_hashes: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        (one, with_changed_tokens(rng, one, n)) for n in range(0, 40, 2) for one in [random_conversation(rng)]
    ]
    values = signatures_of([conversation for pair in pairs for conversation in pair], num_hashes)
    estimates = (values[::2] == values[1::2]).mean(axis=1)
    exact = np.array([jaccard(*pair) for pair in pairs])
    assert exact.min() < 0.35 < 0.99 < exact.max()
    assert abs((estimates - exact).mean()) < 0.03
    assert abs(estimates - exact).max() < 4 * 0.5 / num_hashes**0.5


def test_a_signature_depends_on_its_own_conversation_alone() -> None:
    rng = np.random.default_rng(1)
    conversations = [random_conversation(rng, length) for length in (1, 4, 5, 6, 300)] + [
        [("user", [])],
        [("user", [0, 0])],
    ]
    together = signatures_of(conversations)
    assert all(
        (signatures_of([one])[0] == row).all() for one, row in zip(conversations, together, strict=True)
    )
    assert len(np.unique(together, axis=0)) == len(conversations)


def test_planted_near_duplicates_are_found_and_nothing_else_is_merged() -> None:
    rng = np.random.default_rng(2)
    originals = [random_conversation(rng) for _ in range(400)]
    copies = [with_changed_tokens(rng, one, 2) for one in originals[:100]]
    groups = groups_of(originals + copies)
    assert groups[400:] == list(range(100)), "each copy is in the group of its original"
    assert groups[:400] == list(range(400)), "no two originals are in one"


def test_half_equal_conversations_are_not_merged() -> None:
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(300):
        shared = random_tokens(rng, 120)
        pairs += [[("user", shared + random_tokens(rng, 40))], [("user", shared + random_tokens(rng, 40))]]
    assert 0.5 < jaccard(pairs[0], pairs[1]) < 0.65
    groups = np.array(groups_of(pairs))
    false_merges = (groups[::2] == groups[1::2]).mean()
    assert false_merges < 0.01


def test_the_threshold_has_an_effect() -> None:
    rng = np.random.default_rng(4)
    conversations = [
        copy
        for _ in range(50)
        for one in [random_conversation(rng)]
        for copy in (one, with_changed_tokens(rng, one, 8))
    ]
    assert 0.6 < jaccard(conversations[0], conversations[1]) < 0.8
    merged = {
        threshold: 100 - len(set(groups_of(conversations, threshold)))
        for threshold in (0.5, 0.7, 0.8, 0.95, 1.0)
    }
    assert merged[0.5] == 50 > merged[0.7] > merged[0.8] >= merged[0.95] == merged[1.0] == 0


def test_system_messages_are_ignored() -> None:
    rng = np.random.default_rng(5)
    prompt, other = random_tokens(rng, 1000), random_tokens(rng, 1000)
    one, two = ([("user", random_tokens(rng, 20)), ("assistant", random_tokens(rng, 20))] for _ in range(2))
    groups = groups_of([[("system", prompt), *one], [("system", prompt), *two], [("system", other), *one]])
    assert groups == [0, 1, 0]


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    rng = np.random.default_rng(6)
    chain = [random_conversation(rng)]
    for _ in range(8):
        chain.append(with_changed_tokens(rng, chain[-1], 2))
    assert jaccard(chain[0], chain[-1]) < 0.7
    assert set(groups_of(chain)) == {0}


def test_near_duplicates_are_found_among_conversations_of_one_template() -> None:
    rng = np.random.default_rng(9)
    template = random_tokens(rng, 90)
    conversations: list[RoleTokens] = [
        [("user", template + random_tokens(rng, 30)), ("assistant", random_tokens(rng, 10))]
        for _ in range(2000)
    ]
    copies = [with_changed_tokens(rng, one, 1) for one in conversations[:200]]
    assert 0.5 < jaccard(conversations[0], conversations[1]) < 0.6
    order = rng.permutation(2200).astype(np.int32)
    groups = near_duplicate_groups(stored_signatures(signatures_of(conversations + copies)), order)[
        np.argsort(order)
    ]
    assert (groups[:200] == groups[2000:]).mean() > 0.99
    assert np.bincount(groups).max() == 2


def test_a_very_large_bucket_takes_bounded_time() -> None:
    rng = np.random.default_rng(7)
    row = rng.integers(0, 2**32, 64, dtype=np.uint32)
    same = np.tile(row, (200_000, 1))
    assert not near_duplicate_groups(stored_signatures(same), input_order(len(same))).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_groups_do_not_depend_on_the_order_of_the_input(seed: int) -> None:
    rng = np.random.default_rng(seed)
    conversations = [random_conversation(rng, 40) for _ in range(20)]
    conversations += [
        with_changed_tokens(rng, conversations[index], int(rng.integers(0, 4)))
        for index in rng.integers(0, 20, 30)
    ]
    values = signatures_of(conversations)
    shuffle = rng.permutation(len(conversations))
    # The canonical order is any order that follows from content; here it is that of the list.
    plain = near_duplicate_groups(stored_signatures(values), input_order(len(conversations)))
    other = near_duplicate_groups(stored_signatures(values[shuffle]), np.argsort(shuffle).astype(np.int32))
    assert plain.tolist() == other.tolist()


def test_a_partitioned_hash_table_gives_the_same_groups() -> None:
    rng = np.random.default_rng(3)
    conversations = [random_conversation(rng, 20) for _ in range(1500)]
    conversations += [with_changed_tokens(rng, one, 1) for one in conversations[:1000]]
    values, order = stored_signatures(signatures_of(conversations)), input_order(2500)
    whole = near_duplicate_groups(values, order)
    assert np.count_nonzero(np.bincount(whole) > 1) > 500
    assert near_duplicate_groups(values, order, max_table_keys=1000).tolist() == whole.tolist()
    same = rng.integers(0, 500, 2500, dtype=np.uint64) << np.uint64(32)
    merged = merge_groups(whole, same)
    assert merge_groups(whole, same, max_table_keys=1000).tolist() == merged.tolist()


@given(threshold=st.floats(0.5, 1), num_hashes=st.sampled_from([64, 128]))
def test_a_pair_at_the_threshold_is_rarely_missed(threshold: float, num_hashes: int) -> None:
    width = band_width(num_hashes, threshold)
    assert 1 - (1 - threshold**width) ** (num_hashes // width) >= 0.98


@given(
    labels=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30),
)
def test_merged_groups_are_the_connected_components_of_both(labels: list[tuple[int, int]]) -> None:
    firsts: dict[int, int] = {}
    parents = np.array([firsts.setdefault(one, at) for at, (one, _) in enumerate(labels)], np.int32)
    merged = merge_groups(parents, np.array([other for _, other in labels], np.uint64)).tolist()
    expected = list(range(len(labels)))
    for _ in labels:  # enough rounds for the least index to spread over shared labels
        for at, (one, other) in enumerate(labels):
            connected = [to for to, pair in enumerate(labels) if pair[0] == one or pair[1] == other]
            expected[at] = min(expected[to] for to in connected)
    assert merged == expected
