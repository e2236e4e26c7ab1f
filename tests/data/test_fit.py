"""What becomes of a conversation longer than a row, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest

from gemfit.data.document import TRAINED, Document, Turn
from gemfit.data.packing.overlong import fit


def document(length: int, trained_from: int = 1) -> Document:
    """A question of 20 words, then an answer up to ``length``; trained from some word on."""
    words = np.arange(10, 10 + length, dtype=np.uint32)
    words[trained_from:] |= TRAINED
    begin = words[:1]
    turns = (Turn("user", 1, 2), Turn("assistant", 20, 2))
    return Document(words, turns, begin, begin, words[:0], user_header=words[1:3], user_end=words[19:20])


@pytest.mark.parametrize("overlong", ["split", "cut", "truncate", "drop"])
def test_a_conversation_that_fits_is_one_atom_and_costs_nothing(overlong: str) -> None:
    whole = document(64)
    (atom,), *costs = fit(whole, overlong, 64)
    assert atom.words.tolist() == atom.body.tolist() == whole.words.tolist()
    assert (atom.start, atom.linked, atom.torn) == (0, False, False)
    assert costs == [0, 0, 0]


@pytest.mark.parametrize("overlong", ["split", "cut", "truncate", "drop"])
@pytest.mark.parametrize("trained_from", [1, 22, 70, 199])
def test_every_token_is_in_an_atom_or_in_one_account(overlong: str, trained_from: int) -> None:
    fitted = fit(document(200, trained_from), overlong, 64)
    packed = sum(len(atom.body) for atom in fitted.atoms)
    assert packed + fitted.truncated + fitted.dropped + fitted.untrained == 200


def test_drop_leaves_all_of_it_out() -> None:
    assert fit(document(200), "drop", 64) == ([], 0, 200, 0)


def test_truncate_keeps_the_first_row_unless_it_trains_nothing() -> None:
    (atom,), *costs = fit(document(200), "truncate", 64)
    assert len(atom.words) == 64
    assert costs == [136, 0, 0]
    assert fit(document(200, trained_from=100), "truncate", 64) == ([], 200, 0, 0)


def test_cut_makes_more_and_shorter_atoms_than_split() -> None:
    split, cut = (fit(document(600), overlong, 128).atoms for overlong in ("split", "cut"))
    assert len(cut) > 2 * len(split)
    assert max(len(atom.body) for atom in cut) < min(len(atom.body) for atom in split[:-1])
