"""What is packed: duplicates, sides, weights and the limit of rows follow from content alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_likeness import changed, jaccard, signed, stored, talk
from gemfit.data.filter import selection as choosing
from gemfit.data.filter.mixture import copies_by_weight, mix
from gemfit.data.filter.selection import (
    NOWHERE,
    TRAIN,
    VALIDATION,
    Candidates,
    Choice,
    Disposition,
    beginning,
    choose,
    within_max_rows,
)
from gemfit.errors import UserError
from gemfit.schemas.recipe import DataRecipe, SourceRecipe


def candidates(**columns: Any) -> Candidates:
    """Columns by name; what is left out is distinct, of one source, and packable."""
    count = len(next(iter(columns.values())))
    numbers = np.arange(count, dtype=np.uint64)
    plain: dict[str, Any] = {
        "digests": np.stack([mix(numbers), numbers], axis=1),
        "likeness": mix(numbers + np.uint64(2**40)),
        "signatures": stored(np.empty((count, 0), np.uint32)),
        "source": np.zeros(count, np.int16),
        "fate": np.zeros(count, np.int8),
    }
    return Candidates(**plain | columns)


def plain(count: int) -> Candidates:
    return candidates(fate=np.zeros(count, np.int8))


def recipe(*weights: float, **settings: Any) -> DataRecipe:
    sources = tuple(SourceRecipe(source=f"{at}.jsonl", weight=weight) for at, weight in enumerate(weights))
    ignore = {"near_duplicates": "ignore"}
    return DataRecipe(**ignore | settings, **({"sources": sources} if weights else {"source": "0.jsonl"}))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Candidates, DataRecipe]:
    """Conversations of a few contents, so that there are copies and likenesses of all kinds."""
    contents = draw(st.lists(st.integers(0, 12), min_size=1, max_size=40))
    sources = sorted(draw(st.lists(st.integers(0, 2), min_size=len(contents), max_size=len(contents))))
    content = np.array(contents, np.uint64)
    fates = np.array([0, 0, 0, 0, Disposition.OVERLONG, Disposition.UNTRAINED], np.int8)
    rng = np.random.default_rng(5)
    signatures = rng.integers(0, 2**32, (13, 64), dtype=np.uint32)
    signatures[1, :60], signatures[4, 2:] = signatures[3, :60], signatures[5, 2:]
    found = candidates(
        digests=np.stack([mix(content), content], axis=1),
        likeness=mix(content // np.uint64(2)),
        signatures=stored(signatures[content]),
        source=np.array(sources, np.int16),
        fate=fates[content % np.uint64(6)],
    )
    weights = draw(st.lists(st.sampled_from([0.3, 0.5, 1.0, 2.0, 2.5]), min_size=3, max_size=3))
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    return found, recipe(
        *weights,
        near_duplicates=draw(st.sampled_from(["ignore", "group", "drop"])),
        validation_share=share,
    )


def by_content(found: Candidates, choice: Choice) -> dict[int, tuple[int, int]]:
    """Copies and side of each content that is packed."""
    contents = found.digests[choice.order, 1].tolist()
    copies, sides = choice.copies[choice.order].tolist(), choice.split[choice.order].tolist()
    return dict(zip(contents, zip(copies, sides, strict=True), strict=True))


@settings(deadline=None)
@given(given_input=inputs(), seed=st.integers(0, 2**32 - 1))
def test_every_conversation_has_one_fate_and_only_kept_ones_a_place(
    given_input: tuple[Candidates, DataRecipe], seed: int
) -> None:
    found, data = given_input
    choice = choose(found, data, seed)
    kept = choice.fate == Disposition.KEPT
    assert (kept == (choice.copies > 0)).all()
    assert (kept == (choice.split != NOWHERE)).all()
    assert sorted(choice.order) == np.flatnonzero(kept).tolist()
    digests = [tuple(row) for row in found.digests[choice.order].tolist()]
    assert digests == sorted(set(digests)), "canonical order, each content once"
    first: dict[int, int] = {}
    for at, content in enumerate(found.digests[:, 1].tolist()):
        assert (choice.fate[at] == Disposition.DUPLICATE) == (content in first)
        if choice.fate[at] == Disposition.DUPLICATE:
            assert choice.original[at] == first[content], "the first in the order of the input stays"
            assert choice.numbers()[at] == choice.numbers()[first[content]]
        first.setdefault(content, at)
    lost = found.fate != Disposition.KEPT
    assert set(choice.fate[lost].tolist()) <= {
        Disposition.DUPLICATE,
        Disposition.OVERLONG,
        Disposition.UNTRAINED,
    }


@settings(deadline=None)
@given(given_input=inputs(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_lines_changes_nothing(
    given_input: tuple[Candidates, DataRecipe], shuffle: Any
) -> None:
    found, data = given_input
    moved = list(range(len(found.source)))
    shuffle.shuffle(moved)
    moved.sort(key=lambda at: int(found.source[at]))  # sources stay in the order of the recipe
    columns = {name: getattr(found, name)[moved] for name in ("digests", "likeness", "source", "fate")}
    other = candidates(signatures=stored(found.signatures.values.mapped()[moved]), **columns)
    one, two = choose(found, data, seed=1), choose(other, data, seed=1)
    assert by_content(found, one) == by_content(other, two)
    assert sorted(one.fate.tolist()) == sorted(two.fate.tolist())


@settings(deadline=None, max_examples=30)
@given(given_input=inputs())
def test_digests_that_are_sorted_in_lots_give_the_same_choice(
    given_input: tuple[Candidates, DataRecipe],
) -> None:
    found, data = given_input
    whole = choose(found, data, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_SORTED_AT_ONCE", 8)
        lots = choose(found, data, seed=1)
    for name in ("fate", "copies", "split", "original", "order"):
        assert getattr(lots, name).tolist() == getattr(whole, name).tolist()


@settings(deadline=None)
@given(given_input=inputs())
def test_what_is_alike_falls_on_one_side_and_drop_keeps_one_of_it(
    given_input: tuple[Candidates, DataRecipe],
) -> None:
    found, data = given_input
    choice = choose(found, data, seed=1)
    sides = {content: side for content, (_, side) in by_content(found, choice).items()}
    pairs = [(one, one + 1) for one in range(0, 12, 2)]
    near = [*pairs, (1, 3), (4, 5)] if data.near_duplicates != "ignore" else pairs
    for one, other in near:
        if one in sides and other in sides:
            assert sides[one] == sides[other]
            assert data.near_duplicates != "drop"
    for at in np.flatnonzero(choice.fate == Disposition.NEAR_DUPLICATE):
        assert data.near_duplicates == "drop"
        stays = choice.original[at]
        assert found.fate[stays] == Disposition.KEPT
        assert choice.fate[stays] in (Disposition.KEPT, Disposition.LEFT_BY_WEIGHT)
        assert found.source[stays] <= found.source[at]


def test_no_near_duplicate_of_a_training_conversation_is_held_out() -> None:
    rng = np.random.default_rng(8)
    talks = [copy for _ in range(150) for one in [talk(rng, 60)] for copy in (one, changed(rng, one, 1))]
    assert all(jaccard(talks[at], talks[at + 1]) > 0.85 for at in range(0, 300, 2))
    found = candidates(signatures=stored(signed(talks)))

    def leaks(near_duplicates: str) -> int:
        data = recipe(near_duplicates=near_duplicates, validation_share=0.3)
        side = choose(found, data, seed=1).split.reshape(-1, 2)
        assert (side == VALIDATION).sum() > 10
        return int(((side == TRAIN).any(axis=1) & (side == VALIDATION).any(axis=1)).sum())

    assert leaks("ignore") > 30, "otherwise there is nothing to prevent"
    assert leaks("group") == 0
    assert leaks("drop") == 0


def test_data_of_one_template_is_held_out_one_by_one() -> None:
    """As one group, all of it would fall on one side."""
    rng = np.random.default_rng(9)
    template = talk(rng)
    talks = [changed(rng, template, 3) for _ in range(600)]
    found = candidates(signatures=stored(signed(talks)))
    for near_duplicates in ("ignore", "group"):
        data = recipe(near_duplicates=near_duplicates, validation_share=0.2)
        held_out = (choose(found, data, seed=1).split == VALIDATION).mean()
        assert 0.1 < held_out < 0.3


def test_what_is_left_out_is_near_the_one_that_stays_for_it() -> None:
    rng = np.random.default_rng(10)
    chain = [talk(rng)]
    for _ in range(30):
        chain.append(changed(rng, chain[-1], 2))
    found = candidates(signatures=stored(signed(chain, 128)))
    choice = choose(found, recipe(near_duplicates="drop", validation_share=0), seed=1)
    left = np.flatnonzero(choice.fate == Disposition.NEAR_DUPLICATE)
    values = found.signatures.values.mapped()
    assert 5 < len(left) < 30, "a chain keeps more than one"
    assert (choice.fate[choice.original[left]] == Disposition.KEPT).all()
    assert ((values[left] == values[choice.original[left]]).mean(axis=1) >= 0.8).all()


def test_the_share_held_out_does_not_depend_on_the_size_of_groups() -> None:
    count = 20_000
    for size in (1, 20):
        likeness = mix(np.arange(count, dtype=np.uint64))
        signatures = np.repeat(
            np.random.default_rng(size).integers(0, 2**32, (count // size, 64), dtype=np.uint32), size, axis=0
        )
        found = candidates(likeness=likeness, signatures=stored(signatures))
        choice = choose(found, recipe(near_duplicates="group", validation_share=0.1), seed=1)
        share = (choice.split == VALIDATION).mean()
        assert abs(share - 0.1) < 4 * (0.09 * size / count) ** 0.5


@pytest.mark.parametrize("weight", [0.001, 0.25, 0.5, 1.0, 2.5, 3.0])
def test_a_weight_is_the_mean_number_of_copies(weight: float) -> None:
    count = 20_000
    choice = choose(plain(count), recipe(1.0, weight, validation_share=0), seed=3)
    assert (choice.copies == 1).all(), "the first source has weight 1"
    found = candidates(source=np.ones(count, np.int16))
    copies = choose(found, recipe(1.0, weight, validation_share=0), seed=3).copies
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


def test_a_held_out_conversation_is_never_there_twice() -> None:
    choice = choose(plain(2000), recipe(2.5, validation_share=0.5), seed=1)
    assert set(choice.copies[choice.split == VALIDATION].tolist()) == {1}
    assert set(choice.copies[choice.split == TRAIN].tolist()) == {2, 3}


def test_a_copy_in_two_sources_belongs_to_the_first() -> None:
    digests = np.ones((2, 2), np.uint64)
    found = candidates(digests=digests, source=np.array([0, 1], np.int16))
    choice = choose(found, recipe(1.0, 3.0, validation_share=0), seed=1)
    assert choice.copies.tolist() == [1, 0]
    assert choice.fate.tolist() == [Disposition.KEPT, Disposition.DUPLICATE]


def test_a_near_copy_that_cannot_be_packed_replaces_none_that_can() -> None:
    same = np.zeros((2, 128), np.uint32)
    found = candidates(
        signatures=stored(same), fate=np.array([Disposition.OVERLONG, Disposition.KEPT], np.int8)
    )
    choice = choose(found, recipe(near_duplicates="drop", validation_share=0), seed=1)
    assert choice.fate.tolist() == [Disposition.OVERLONG, Disposition.KEPT]


@given(
    count=st.integers(1, 60),
    max_rows=st.integers(1, 40),
    per_row=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.4]),
)
def test_max_rows_keeps_the_longest_beginning_that_fits(
    count: int, max_rows: int, per_row: int, share: float
) -> None:
    def rows_of(choice: Choice) -> int:
        return -(-int(choice.copies[choice.split == TRAIN].sum()) // per_row)

    whole = choose(plain(count), recipe(2.5, validation_share=share), seed=1)
    if not (whole.split == TRAIN).any():
        return
    alone = beginning(whole, int(np.argmax(whole.split[whole.order] == TRAIN)) + 1)
    if rows_of(alone) > max_rows:
        with pytest.raises(UserError, match=r"data\.max_rows is"):
            within_max_rows(whole, max_rows, rows_of)
        return
    cut = within_max_rows(whole, max_rows, rows_of)
    kept = len(cut.order)
    assert cut.order.tolist() == whole.order[:kept].tolist()
    assert rows_of(cut) <= max_rows
    assert kept == count or rows_of(beginning(whole, kept + 1)) > max_rows
    beyond = whole.order[kept:]
    assert (cut.fate[beyond] == Disposition.BEYOND_MAX_ROWS).all()
    assert (cut.copies[beyond] == 0).all()
    assert (cut.split[beyond] == NOWHERE).all()


@given(values=st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50))
def test_mixing_is_a_bijection(values: list[int]) -> None:
    assert len(set(mix(np.array(values, np.uint64)).tolist())) == len(values)
