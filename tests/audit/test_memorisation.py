"""What counts as a word for word copy, and that only the excess over validation conversations matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.audit.memorisation import (
    CONTROL,
    COPIES,
    EXCESS,
    TRAINING,
    VALIDATION,
    VERBATIM,
    figures,
    longest_common_span,
    make_score,
)
from gemfit.audit.suite import Prompt, ScoredReply, prompt_messages

TOKENS = st.lists(st.integers(0, 4), max_size=30)
SCORE = make_score(lambda text: [int(word) for word in text.split()])


def prompt(reference: list[int], split: str = TRAINING, number: str = "data.jsonl:1") -> Prompt:
    text = " ".join(map(str, reference))
    return Prompt(number=number, variant=split, messages=prompt_messages("…", ""), facts={"reference": text})


def scores(reference: list[int], reply: list[int]) -> dict[str, float]:
    return SCORE(prompt(reference), " ".join(map(str, reply)))


@pytest.mark.parametrize(
    ("reference", "reply", "verbatim", "fifty"),
    [
        (list(range(80)), list(range(64)), 1, 1),
        (list(range(80)), list(range(50)), 1, 1),
        (list(range(80)), list(range(49)), 0, 0),
        (list(range(20)), list(range(20)), 1, 0),  # all of a short one
        (list(range(20)), list(range(19)), 0, 0),
        (list(range(80)), [99, 98, *range(10, 60)], 1, 1),  # begins elsewhere
        (list(range(80)), [], 0, 0),
    ],
)
def test_a_copy_is_fifty_tokens_in_a_row_or_all_of_a_shorter_reply(
    reference: list[int], reply: list[int], verbatim: int, fifty: int
) -> None:
    found = scores(reference, reply)
    assert (found[VERBATIM.name], found["50 tokens verbatim"]) == (verbatim, fifty)


@given(TOKENS, TOKENS)
def test_the_longest_common_span_equals_an_exhaustive_search(one: list[int], other: list[int]) -> None:
    def is_in(part: list[int]) -> bool:
        return any(other[at : at + len(part)] == part for at in range(len(other) - len(part) + 1))

    spans = [
        stop - start
        for start in range(len(one))
        for stop in range(start + 1, len(one) + 1)
        if is_in(one[start:stop])
    ]
    assert longest_common_span(one, other) == max(spans, default=0)


@given(TOKENS.filter(bool))
def test_a_reply_is_most_like_itself(tokens: list[int]) -> None:
    assert scores(tokens, tokens)["edit similarity"] == 1.0
    assert scores(tokens, [*tokens, 9])["edit similarity"] < 1.0


def scored_replies(split: str, copied: int, count: int) -> list[ScoredReply]:
    reference = list(range(60))
    return [
        ScoredReply(
            prompt=(one := prompt(reference, split, f"data.jsonl:{split}{n}")),
            reply=(reply := " ".join(map(str, reference if n < copied else [7]))),
            scores=SCORE(one, reply),
        )
        for n in range(count)
    ]


def test_the_excess_compares_training_with_validation_conversations() -> None:
    found = {
        f.measure: f for f in figures([*scored_replies(TRAINING, 3, 10), *scored_replies(VALIDATION, 1, 5)])
    }
    assert sum(found[VERBATIM].values.values()) == 3
    assert sum(found[CONTROL].values.values()) == 1
    assert (len(found[EXCESS].values), len(found[EXCESS].control)) == (10, 5)
    assert sum(found[COPIES].values.values()) == 3


def test_without_validation_conversations_there_is_no_excess() -> None:
    assert [f.measure for f in figures(scored_replies(TRAINING, 1, 4))] == [VERBATIM]
