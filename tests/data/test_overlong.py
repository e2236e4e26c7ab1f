"""``data.overlong``: drop, truncate, split and cut, with the tokens that each loses."""

from __future__ import annotations

import numpy as np
import pytest

from gemfit.data.document import TRAINED, Document, Turn
from gemfit.data.packing.overlong import fit_document


def document(length: int, trained_from: int = 1) -> Document:
    """A question of 20 words, then an answer up to ``length``; trained from some word on."""
    words = np.arange(10, 10 + length, dtype=np.uint32)
    words[trained_from:] |= TRAINED
    begin = words[:1]
    turns = (Turn("user", 1, 2), Turn("assistant", 20, 2))
    return Document(words, turns, begin, begin, words[:0], user_header=words[1:3], user_end=words[19:20])


@pytest.mark.parametrize("overlong", ["split", "cut", "truncate", "drop"])
def test_a_conversation_that_fits_is_one_fragment_and_loses_nothing(overlong: str) -> None:
    whole = document(64)
    (fragment,), *costs = fit_document(whole, overlong, 64)
    assert fragment.words.tolist() == fragment.body.tolist() == whole.words.tolist()
    assert (fragment.start, fragment.continues, fragment.mid_message) == (0, False, False)
    assert costs == [0, 0, 0]


@pytest.mark.parametrize("overlong", ["split", "cut", "truncate", "drop"])
@pytest.mark.parametrize("trained_from", [1, 22, 70, 199])
def test_every_token_is_in_a_fragment_or_counted_as_lost(overlong: str, trained_from: int) -> None:
    fitted = fit_document(document(200, trained_from), overlong, 64)
    packed = sum(len(fragment.body) for fragment in fitted.fragments)
    assert packed + fitted.truncated + fitted.dropped + fitted.untrained == 200


def test_drop_leaves_all_of_it_out() -> None:
    assert fit_document(document(200), "drop", 64) == ([], 0, 200, 0)


def test_truncate_keeps_the_first_row_unless_it_trains_nothing() -> None:
    (fragment,), *costs = fit_document(document(200), "truncate", 64)
    assert len(fragment.words) == 64
    assert costs == [136, 0, 0]
    assert fit_document(document(200, trained_from=100), "truncate", 64) == ([], 200, 0, 0)


def test_cut_makes_more_and_shorter_fragments_than_split() -> None:
    split, cut = (fit_document(document(600), overlong, 128).fragments for overlong in ("split", "cut"))
    assert len(cut) > 2 * len(split)
    assert max(len(fragment.body) for fragment in cut) < min(len(fragment.body) for fragment in split[:-1])
