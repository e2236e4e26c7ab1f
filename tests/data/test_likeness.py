"""Near duplicates: what is found, what is not merged, and what the order of the input may not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.dedup.lsh import Signatures, band_width, merge_groups, near_duplicate_groups
from gemfit.data.dedup.minhash import NUM_HASHES, SHINGLE, signatures
from gemfit.data.jsonl.conversation import ROLES

ConversationSpans = list[tuple[str, list[int]]]
"""Roles and token ids."""


def signed(talks: list[ConversationSpans], num_hashes: int = 64) -> NDArray[np.uint32]:
    messages = [message for talk in talks for message in talk]
    return signatures(
        np.array([token for _, ids in messages for token in ids], np.uint32),
        np.cumsum([len(ids) for _, ids in messages]).astype(np.int64),
        np.cumsum([len(talk) for talk in talks]).astype(np.int64),
        np.array([ROLES.index(role) for role, _ in messages], np.uint8),
        num_hashes,
    )


def stored(values: NDArray[np.uint32], threshold: float = 0.8) -> Signatures:
    """Signatures where the builder has them."""
    found = Signatures(values.shape[1], threshold)
    for some in np.array_split(values, 3):
        found.append(some)
    return found


def in_order(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def grouped(talks: list[ConversationSpans], threshold: float = 0.8) -> list[int]:
    groups = near_duplicate_groups(stored(signed(talks), threshold), in_order(len(talks)))
    return [int(group) for group in groups]


def words(rng: np.random.Generator, count: int) -> list[int]:
    return [int(word) for word in rng.integers(1, 50_000, count)]


def changed(rng: np.random.Generator, talk: ConversationSpans, places: int) -> ConversationSpans:
    """The same with some tokens of its last message replaced."""
    *rest, (role, ids) = talk
    ids = list(ids)
    for place in rng.choice(len(ids), places, replace=False):
        ids[place] += 50_000
    return [*rest, (role, ids)]


def talk(rng: np.random.Generator, length: int = 200) -> ConversationSpans:
    return [("user", words(rng, 30)), ("assistant", words(rng, length))]


def jaccard(one: ConversationSpans, other: ConversationSpans) -> float:
    """Exact, of the runs that stand for a conversation."""

    def runs(talk: ConversationSpans) -> set[tuple[int, ...]]:
        spoken = [ids for role, ids in talk if role != "system" and ids]
        return {
            tuple(ids[at : at + SHINGLE]) for ids in spoken for at in range(max(1, len(ids) - SHINGLE + 1))
        }

    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


@pytest.mark.parametrize("num_hashes", sorted(set(NUM_HASHES.values())))
def test_equal_places_estimate_the_jaccard_similarity(num_hashes: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [(one, changed(rng, one, n)) for n in range(0, 40, 2) for one in [talk(rng)]]
    values = signed([talk for pair in pairs for talk in pair], num_hashes)
    estimates = (values[::2] == values[1::2]).mean(axis=1)
    exact = np.array([jaccard(*pair) for pair in pairs])
    assert exact.min() < 0.35 < 0.99 < exact.max()
    assert abs((estimates - exact).mean()) < 0.03
    assert abs(estimates - exact).max() < 4 * 0.5 / num_hashes**0.5


def test_a_signature_depends_on_its_own_conversation_alone() -> None:
    rng = np.random.default_rng(1)
    talks = [talk(rng, length) for length in (1, 4, 5, 6, 300)] + [[("user", [])], [("user", [0, 0])]]
    together = signed(talks)
    assert all((signed([one])[0] == row).all() for one, row in zip(talks, together, strict=True))
    assert len(np.unique(together, axis=0)) == len(talks)


def test_planted_near_duplicates_are_found_and_nothing_else_is_merged() -> None:
    rng = np.random.default_rng(2)
    originals = [talk(rng) for _ in range(400)]
    copies = [changed(rng, one, 2) for one in originals[:100]]
    groups = grouped(originals + copies)
    assert groups[400:] == list(range(100)), "each copy is in the group of its original"
    assert groups[:400] == list(range(400)), "no two originals are in one"


def test_what_is_half_alike_stays_apart() -> None:
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(300):
        shared = words(rng, 120)
        pairs += [[("user", shared + words(rng, 40))], [("user", shared + words(rng, 40))]]
    assert 0.5 < jaccard(pairs[0], pairs[1]) < 0.65
    groups = np.array(grouped(pairs))
    false_merges = (groups[::2] == groups[1::2]).mean()
    assert false_merges < 0.01


def test_the_threshold_has_an_effect() -> None:
    rng = np.random.default_rng(4)
    talks = [copy for _ in range(50) for one in [talk(rng)] for copy in (one, changed(rng, one, 8))]
    assert 0.6 < jaccard(talks[0], talks[1]) < 0.8
    merged = {
        threshold: 100 - len(set(grouped(talks, threshold))) for threshold in (0.5, 0.7, 0.8, 0.95, 1.0)
    }
    assert merged[0.5] == 50 > merged[0.7] > merged[0.8] >= merged[0.95] == merged[1.0] == 0


def test_a_system_message_makes_nothing_alike_or_different() -> None:
    rng = np.random.default_rng(5)
    prompt, other = words(rng, 1000), words(rng, 1000)
    one, two = ([("user", words(rng, 20)), ("assistant", words(rng, 20))] for _ in range(2))
    groups = grouped([[("system", prompt), *one], [("system", prompt), *two], [("system", other), *one]])
    assert groups == [0, 1, 0]


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    rng = np.random.default_rng(6)
    chain = [talk(rng)]
    for _ in range(8):
        chain.append(changed(rng, chain[-1], 2))
    assert jaccard(chain[0], chain[-1]) < 0.7
    assert set(grouped(chain)) == {0}


def test_near_copies_are_found_among_conversations_of_one_template() -> None:
    rng = np.random.default_rng(9)
    template = words(rng, 90)
    talks: list[ConversationSpans] = [
        [("user", template + words(rng, 30)), ("assistant", words(rng, 10))] for _ in range(2000)
    ]
    copies = [changed(rng, one, 1) for one in talks[:200]]
    assert 0.5 < jaccard(talks[0], talks[1]) < 0.6
    order = rng.permutation(2200).astype(np.int32)
    groups = near_duplicate_groups(stored(signed(talks + copies)), order)[np.argsort(order)]
    assert (groups[:200] == groups[2000:]).mean() > 0.99
    assert np.bincount(groups).max() == 2


def test_a_bucket_of_very_many_is_gone_through_in_bounded_time() -> None:
    rng = np.random.default_rng(7)
    row = rng.integers(0, 2**32, 64, dtype=np.uint32)
    same = np.tile(row, (200_000, 1))
    assert not near_duplicate_groups(stored(same), in_order(len(same))).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_groups_do_not_depend_on_the_order_of_the_input(seed: int) -> None:
    rng = np.random.default_rng(seed)
    talks = [talk(rng, 40) for _ in range(20)]
    talks += [changed(rng, talks[index], int(rng.integers(0, 4))) for index in rng.integers(0, 20, 30)]
    values = signed(talks)
    shuffle = rng.permutation(len(talks))
    # The canonical order is any order that follows from content; here it is that of the talks.
    plain = near_duplicate_groups(stored(values), in_order(len(talks)))
    other = near_duplicate_groups(stored(values[shuffle]), np.argsort(shuffle).astype(np.int32))
    assert plain.tolist() == other.tolist()


def test_keys_that_are_gone_through_in_shares_give_the_same_groups() -> None:
    rng = np.random.default_rng(3)
    talks = [talk(rng, 20) for _ in range(1500)]
    talks += [changed(rng, one, 1) for one in talks[:1000]]
    values, order = stored(signed(talks)), in_order(2500)
    whole = near_duplicate_groups(values, order)
    assert np.count_nonzero(np.bincount(whole) > 1) > 500
    assert near_duplicate_groups(values, order, at_once=1000).tolist() == whole.tolist()
    same = rng.integers(0, 500, 2500, dtype=np.uint64) << np.uint64(32)
    merged = merge_groups(whole, same)
    assert merge_groups(whole, same, at_once=1000).tolist() == merged.tolist()


@given(threshold=st.floats(0.5, 1), places=st.sampled_from([64, 128]))
def test_a_pair_at_the_threshold_is_rarely_missed(threshold: float, places: int) -> None:
    width = band_width(places, threshold)
    assert 1 - (1 - threshold**width) ** (places // width) >= 0.98


@given(
    labels=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30),
)
def test_merged_groups_are_the_connected_components_of_both(labels: list[tuple[int, int]]) -> None:
    firsts: dict[int, int] = {}
    parents = np.array([firsts.setdefault(one, at) for at, (one, _) in enumerate(labels)], np.int32)
    merged = merge_groups(parents, np.array([other for _, other in labels], np.uint64)).tolist()
    expected = list(range(len(labels)))
    for _ in labels:  # until nothing moves: the least index spreads over shared labels
        for at, (one, other) in enumerate(labels):
            alike = [to for to, pair in enumerate(labels) if pair[0] == one or pair[1] == other]
            expected[at] = min(expected[to] for to in alike)
    assert merged == expected
