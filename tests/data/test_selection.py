"""Selection: deduplication, validation split, weights and max_rows depend on content alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_minhash import (
    jaccard,
    random_conversation,
    signatures_of,
    stored_signatures,
    with_changed_tokens,
)
from gemfit.data.filter import duplicates
from gemfit.data.filter.mixture import copies_by_weight, mix
from gemfit.data.filter.select_conversations import select_conversations
from gemfit.data.filter.selection import (
    NO_SPLIT,
    TRAIN,
    VALIDATION,
    Disposition,
    Selection,
    SelectionInput,
    also_in_validation,
    first_conversations,
    within_max_rows,
)
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe


def selection_input(**columns: Any) -> SelectionInput:
    """Columns by name; defaults are distinct, of one source, and packable."""
    count = len(next(iter(columns.values())))
    numbers = np.arange(count, dtype=np.uint64)
    plain: dict[str, Any] = {
        "digests": np.stack([mix(numbers), numbers], axis=1),
        "normalized_hashes": mix(numbers + np.uint64(2**40)),
        "signatures": stored_signatures(np.empty((count, 0), np.uint32)),
        "source": np.zeros(count, np.int16),
        "disposition": np.zeros(count, np.int8),
    }
    return SelectionInput(**plain | columns)


def plain(count: int) -> SelectionInput:
    return selection_input(disposition=np.zeros(count, np.int8))


def recipe(*weights: float, **settings: Any) -> DataRecipe:
    sources = tuple(SourceRecipe(source=f"{at}.jsonl", weight=weight) for at, weight in enumerate(weights))
    ignore = {"near_duplicates": "ignore"}
    return DataRecipe(**ignore | settings, **({"sources": sources} if weights else {"source": "0.jsonl"}))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[SelectionInput, DataRecipe]:
    """Conversations of a few contents, so that there are all kinds of duplicates and near-duplicates."""
    contents = draw(st.lists(st.integers(0, 12), min_size=1, max_size=40))
    sources = sorted(draw(st.lists(st.integers(0, 2), min_size=len(contents), max_size=len(contents))))
    content = np.array(contents, np.uint64)
    dispositions = np.array([0, 0, 0, 0, Disposition.OVERLONG, Disposition.UNTRAINED], np.int8)
    rng = np.random.default_rng(5)
    signatures = rng.integers(0, 2**32, (13, 64), dtype=np.uint32)
    signatures[1, :60], signatures[4, 2:] = signatures[3, :60], signatures[5, 2:]
    found = selection_input(
        digests=np.stack([mix(content), content], axis=1),
        normalized_hashes=mix(content // np.uint64(2)),
        signatures=stored_signatures(signatures[content]),
        source=np.array(sources, np.int16),
        disposition=dispositions[content % np.uint64(6)],
    )
    weights = draw(st.lists(st.sampled_from([0.3, 0.5, 1.0, 2.0, 2.5]), min_size=3, max_size=3))
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    return found, recipe(
        *weights,
        near_duplicates=draw(st.sampled_from(["ignore", "group", "drop"])),
        validation_share=share,
    )


@settings(deadline=None)
@given(given_input=inputs(), seed=st.integers(0, 2**32 - 1))
def test_nothing_that_an_own_validation_split_has_is_trained(
    given_input: tuple[SelectionInput, DataRecipe], seed: int
) -> None:
    found, data = given_input
    validation = tuple(SourceRecipe(source=str(index)) for index in range(1))
    data = data.model_copy(
        update={"validation": validation, "sources": data.sources[1:], "validation_share": 0.0}
    )
    selection = select_conversations(found, data, seed)
    in_validation = found.source == 0
    kept = selection.disposition == Disposition.KEPT
    assert (selection.split[kept & in_validation] == VALIDATION).all()
    assert (selection.split[kept & ~in_validation] == TRAIN).all()
    assert (selection.copies[kept & in_validation] == 1).all()
    shared = set(found.normalized_hashes[in_validation].tolist())
    assert not shared & set(found.normalized_hashes[kept & ~in_validation].tolist())
    if data.near_duplicates != "drop":
        lost = found.disposition != Disposition.KEPT
        copies = selection.disposition == Disposition.DUPLICATE
        assert (kept | lost | copies)[in_validation].all()
    left = (
        np.isin(selection.disposition, (Disposition.DUPLICATE, Disposition.NEAR_DUPLICATE)) & ~in_validation
    )
    assert len(also_in_validation(selection, in_validation)) == in_validation[selection.original[left]].sum()


def test_a_limit_of_rows_leaves_an_own_validation_split_whole() -> None:
    count = 40
    found = replace(plain(count), source=(np.arange(count) >= 10).astype(np.int16))
    data = recipe(1.0, validation_share=0).model_copy(update={"validation": (SourceRecipe(source="v"),)})
    selection = select_conversations(found, data, seed=0)

    def rows_of(some: Selection) -> int:
        return int(np.count_nonzero(some.split == TRAIN))

    cut = within_max_rows(selection, 5, rows_of, keep_validation=True)
    assert rows_of(cut) == 5
    assert np.count_nonzero(cut.split == VALIDATION) == 10
    assert len(cut.order) == 15
    assert set(cut.order.tolist()) == set(np.flatnonzero(cut.split != NO_SPLIT).tolist())


def by_content(found: SelectionInput, selection: Selection) -> dict[int, tuple[int, int]]:
    """Copies and split of each content that is packed."""
    contents = found.digests[selection.order, 1].tolist()
    copies, sides = selection.copies[selection.order].tolist(), selection.split[selection.order].tolist()
    return dict(zip(contents, zip(copies, sides, strict=True), strict=True))


@settings(deadline=None)
@given(given_input=inputs(), seed=st.integers(0, 2**32 - 1))
def test_every_conversation_has_one_disposition_and_only_kept_ones_a_split(
    given_input: tuple[SelectionInput, DataRecipe], seed: int
) -> None:
    found, data = given_input
    selection = select_conversations(found, data, seed)
    kept = selection.disposition == Disposition.KEPT
    assert (kept == (selection.copies > 0)).all()
    assert (kept == (selection.split != NO_SPLIT)).all()
    assert sorted(selection.order) == np.flatnonzero(kept).tolist()
    digests = [tuple(row) for row in found.digests[selection.order].tolist()]
    assert digests == sorted(set(digests)), "canonical order, each content once"
    first: dict[int, int] = {}
    for at, content in enumerate(found.digests[:, 1].tolist()):
        assert (selection.disposition[at] == Disposition.DUPLICATE) == (content in first)
        if selection.disposition[at] == Disposition.DUPLICATE:
            assert selection.original[at] == first[content], (
                "the first in the order of the input represents it"
            )
            assert selection.numbers()[at] == selection.numbers()[first[content]]
        first.setdefault(content, at)
    lost = found.disposition != Disposition.KEPT
    assert set(selection.disposition[lost].tolist()) <= {
        Disposition.DUPLICATE,
        Disposition.OVERLONG,
        Disposition.UNTRAINED,
    }


@settings(deadline=None)
@given(given_input=inputs(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_lines_changes_nothing(
    given_input: tuple[SelectionInput, DataRecipe], shuffle: Any
) -> None:
    found, data = given_input
    moved = list(range(len(found.source)))
    shuffle.shuffle(moved)
    moved.sort(key=lambda at: int(found.source[at]))  # sources stay in the order of the recipe
    columns = {
        name: getattr(found, name)[moved]
        for name in ("digests", "normalized_hashes", "source", "disposition")
    }
    other = selection_input(signatures=stored_signatures(found.signatures.values.mapped()[moved]), **columns)
    one, two = select_conversations(found, data, seed=1), select_conversations(other, data, seed=1)
    assert by_content(found, one) == by_content(other, two)
    assert sorted(one.disposition.tolist()) == sorted(two.disposition.tolist())


@settings(deadline=None, max_examples=30)
@given(given_input=inputs())
def test_digests_sorted_in_buckets_give_the_same_selection(
    given_input: tuple[SelectionInput, DataRecipe],
) -> None:
    found, data = given_input
    whole = select_conversations(found, data, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "MAX_SORTED_DIGESTS", 8)
        bucketed = select_conversations(found, data, seed=1)
    for name in ("disposition", "copies", "split", "original", "order"):
        assert getattr(bucketed, name).tolist() == getattr(whole, name).tolist()


@settings(deadline=None)
@given(given_input=inputs())
def test_near_duplicates_share_a_split_and_drop_keeps_one_of_them(
    given_input: tuple[SelectionInput, DataRecipe],
) -> None:
    found, data = given_input
    selection = select_conversations(found, data, seed=1)
    sides = {content: side for content, (_, side) in by_content(found, selection).items()}
    pairs = [(one, one + 1) for one in range(0, 12, 2)]
    near = [*pairs, (1, 3), (4, 5)] if data.near_duplicates != "ignore" else pairs
    for one, other in near:
        if one in sides and other in sides:
            assert sides[one] == sides[other]
            assert data.near_duplicates != "drop"
    for at in np.flatnonzero(selection.disposition == Disposition.NEAR_DUPLICATE):
        assert data.near_duplicates == "drop"
        representative = selection.original[at]
        assert found.disposition[representative] == Disposition.KEPT
        assert selection.disposition[representative] in (Disposition.KEPT, Disposition.LEFT_BY_WEIGHT)
        assert found.source[representative] <= found.source[at]


def test_no_near_duplicate_of_a_training_conversation_is_in_the_validation_split() -> None:
    rng = np.random.default_rng(8)
    conversations = [
        copy
        for _ in range(150)
        for one in [random_conversation(rng, 60)]
        for copy in (one, with_changed_tokens(rng, one, 1))
    ]
    assert all(jaccard(conversations[at], conversations[at + 1]) > 0.85 for at in range(0, 300, 2))
    found = selection_input(signatures=stored_signatures(signatures_of(conversations)))

    def leaks(near_duplicates: str) -> int:
        data = recipe(near_duplicates=near_duplicates, validation_share=0.3)
        side = select_conversations(found, data, seed=1).split.reshape(-1, 2)
        assert (side == VALIDATION).sum() > 10
        return int(((side == TRAIN).any(axis=1) & (side == VALIDATION).any(axis=1)).sum())

    assert leaks("ignore") > 30, "otherwise there is nothing to prevent"
    assert leaks("group") == 0
    assert leaks("drop") == 0


def test_data_of_one_template_is_split_one_by_one() -> None:
    """As one group, all of it would be in one split."""
    rng = np.random.default_rng(9)
    template = random_conversation(rng)
    conversations = [with_changed_tokens(rng, template, 3) for _ in range(600)]
    found = selection_input(signatures=stored_signatures(signatures_of(conversations)))
    for near_duplicates in ("ignore", "group"):
        data = recipe(near_duplicates=near_duplicates, validation_share=0.2)
        share = (select_conversations(found, data, seed=1).split == VALIDATION).mean()
        assert 0.1 < share < 0.3


def test_a_dropped_near_duplicate_is_near_its_representative() -> None:
    rng = np.random.default_rng(10)
    chain = [random_conversation(rng)]
    for _ in range(30):
        chain.append(with_changed_tokens(rng, chain[-1], 2))
    found = selection_input(signatures=stored_signatures(signatures_of(chain, 128)))
    selection = select_conversations(found, recipe(near_duplicates="drop", validation_share=0), seed=1)
    left = np.flatnonzero(selection.disposition == Disposition.NEAR_DUPLICATE)
    values = found.signatures.values.mapped()
    assert 5 < len(left) < 30, "a chain keeps more than one"
    assert (selection.disposition[selection.original[left]] == Disposition.KEPT).all()
    assert ((values[left] == values[selection.original[left]]).mean(axis=1) >= 0.8).all()


def test_the_validation_share_does_not_depend_on_the_size_of_groups() -> None:
    count = 20_000
    for size in (1, 20):
        normalized_hashes = mix(np.arange(count, dtype=np.uint64))
        signatures = np.repeat(
            np.random.default_rng(size).integers(0, 2**32, (count // size, 64), dtype=np.uint32), size, axis=0
        )
        found = selection_input(normalized_hashes=normalized_hashes, signatures=stored_signatures(signatures))
        selection = select_conversations(found, recipe(near_duplicates="group", validation_share=0.1), seed=1)
        share = (selection.split == VALIDATION).mean()
        assert abs(share - 0.1) < 4 * (0.09 * size / count) ** 0.5


@pytest.mark.parametrize("weight", [0.001, 0.25, 0.5, 1.0, 2.5, 3.0])
def test_a_weight_is_the_mean_number_of_copies(weight: float) -> None:
    count = 20_000
    selection = select_conversations(plain(count), recipe(1.0, weight, validation_share=0), seed=3)
    assert (selection.copies == 1).all(), "the first source has weight 1"
    found = selection_input(source=np.ones(count, np.int16))
    copies = select_conversations(found, recipe(1.0, weight, validation_share=0), seed=3).copies
    assert set(copies.tolist()) <= {int(weight), int(np.ceil(weight))}
    fraction = weight % 1
    assert abs(copies.mean() - weight) <= 4 * (fraction * (1 - fraction) / count) ** 0.5


def test_the_seed_draws_others_and_content_draws_the_same_again() -> None:
    digests = plain(1000).digests
    half = np.full(1000, 0.5)
    first, again, other = (copies_by_weight(digests, half, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert 400 < (first != other).sum() < 600
    assert (copies_by_weight(digests[::-1], half, 1) == first[::-1]).all()


def test_a_validation_conversation_is_never_repeated() -> None:
    selection = select_conversations(plain(2000), recipe(2.5, validation_share=0.5), seed=1)
    assert set(selection.copies[selection.split == VALIDATION].tolist()) == {1}
    assert set(selection.copies[selection.split == TRAIN].tolist()) == {2, 3}


def test_a_copy_in_two_sources_belongs_to_the_first() -> None:
    digests = np.ones((2, 2), np.uint64)
    found = selection_input(digests=digests, source=np.array([0, 1], np.int16))
    selection = select_conversations(found, recipe(1.0, 3.0, validation_share=0), seed=1)
    assert selection.copies.tolist() == [1, 0]
    assert selection.disposition.tolist() == [Disposition.KEPT, Disposition.DUPLICATE]


def test_a_near_duplicate_that_cannot_be_packed_replaces_none_that_can() -> None:
    same = np.zeros((2, 128), np.uint32)
    found = selection_input(
        signatures=stored_signatures(same),
        disposition=np.array([Disposition.OVERLONG, Disposition.KEPT], np.int8),
    )
    selection = select_conversations(found, recipe(near_duplicates="drop", validation_share=0), seed=1)
    assert selection.disposition.tolist() == [Disposition.OVERLONG, Disposition.KEPT]


@given(
    count=st.integers(1, 60),
    max_rows=st.integers(1, 40),
    per_row=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.4]),
)
def test_max_rows_keeps_the_longest_beginning_that_fits(
    count: int, max_rows: int, per_row: int, share: float
) -> None:
    def rows_of(selection: Selection) -> int:
        return -(-int(selection.copies[selection.split == TRAIN].sum()) // per_row)

    whole = select_conversations(plain(count), recipe(2.5, validation_share=share), seed=1)
    if not (whole.split == TRAIN).any():
        return
    alone = first_conversations(whole, int(np.argmax(whole.split[whole.order] == TRAIN)) + 1)
    if rows_of(alone) > max_rows:
        with pytest.raises(UserError, match=r"data\.max_rows is"):
            within_max_rows(whole, max_rows, rows_of)
        return
    cut = within_max_rows(whole, max_rows, rows_of)
    chosen = len(cut.order)
    assert cut.order.tolist() == whole.order[:chosen].tolist()
    assert rows_of(cut) <= max_rows
    assert chosen == count or rows_of(first_conversations(whole, chosen + 1)) > max_rows
    beyond = whole.order[chosen:]
    assert (cut.disposition[beyond] == Disposition.BEYOND_MAX_ROWS).all()
    assert (cut.copies[beyond] == 0).all()
    assert (cut.split[beyond] == NO_SPLIT).all()


@given(values=st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50))
def test_mixing_is_a_bijection(values: list[int]) -> None:
    assert len(set(mix(np.array(values, np.uint64)).tolist())) == len(values)
