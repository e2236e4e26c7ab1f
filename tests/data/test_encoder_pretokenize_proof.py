"""Exact split points: splitting changes no tokens, and tokenizers without a proof are refused."""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gemfit.data.tokenize import reference_encoder
from gemfit.data.tokenize.bpe.bpe_tables import make_merge_tables
from gemfit.data.tokenize.bpe.char_pairs import CharPairs, may_be_char_pair
from gemfit.data.tokenize.bpe.pretokenize_proof import MARK, SplitPoints, find_char_pairs, find_split_points
from gemfit.data.tokenize.bpe.split_rules import split_steps, splits_vocabulary
from gemfit.data.tokenize.bpe.whitespace_proof import find_splittable_runs
from gemfit.data.tokenize.bpe.word_cache import word_cache
from gemfit.data.tokenize.gigatoken import gigatoken_encoder
from gemfit.data.tokenize.protocol import Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson, parse_tokenizer, shadowing

WORDS = (
    "ab",
    "abc",
    " a",
    "b c",
    "ba>",
    "▁</",
    "\n",
    "\n\n",
    "a\n",
    "é",
    "<eos>",
    "<x",
    "x>",
    "A,",
    ",b",
    "  ",
    "漢<",
    "a乀",
)
IDEOGRAPHS = "一乀亀什"
"""The same first and last byte in UTF-8: with one pair in an entry, bytes alone split none of them."""
text_strategy = st.lists(
    st.sampled_from(WORDS) | st.text("abcéс漢字𠮷 \n▁<>,", max_size=4) | st.text(IDEOGRAPHS, max_size=9),
    max_size=12,
).map("".join)


def fields_of(tokenizer: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return fields


def changed(tokenizer: Any, **changes: Any) -> TokenizerJson:
    return parse_tokenizer(json.dumps({**fields_of(tokenizer), **changes}))


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PATTERNS = ({"String": "▁"}, {"String": ","}, {"Regex": r"\n+"})
BEHAVIORS = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """BPE with merges at random."""
    items, merges = [*"abc<>,\n▁éс漢", *IDEOGRAPHS[:3]], []
    for _ in range(draw(st.integers(0, 25))):
        pair = draw(st.sampled_from(items)), draw(st.sampled_from(items))
        if "".join(pair) not in items:
            items.append("".join(pair))
            merges.append(pair)
    vocab = {name: index for index, name in enumerate([*BYTES, *items])}
    return {"type": "BPE", "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": merges}


@st.composite
def added_tokens(draw: st.DrawFn) -> list[dict[str, Any]]:
    contents = draw(st.lists(st.sampled_from(["<eos>", "<x", "x>", "a,", "b<", ">\n", "亀什"]), unique=True))
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    kinds = st.fixed_dictionaries({"special": st.booleans(), "normalized": st.booleans()})
    return [
        {"id": 1000 + index, "content": content, **flags, **draw(kinds)}
        for index, content in enumerate(contents)
    ]


@st.composite
def tokenizer_files(draw: st.DrawFn) -> str:
    """A ``tokenizer.json`` in which the word cache may be used, otherwise at random."""
    split = st.fixed_dictionaries(
        {
            "type": st.just("Split"),
            "invert": st.just(False),
            "pattern": st.sampled_from(PATTERNS),
            "behavior": st.sampled_from(BEHAVIORS),
        }
    )
    splits = draw(st.lists(split, max_size=2))
    fields = {
        "version": "1.0",
        "added_tokens": draw(added_tokens()),
        "normalizer": draw(st.sampled_from([None, REPLACE])),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits} if splits else None,
        "model": draw(models()),
    }
    return json.dumps(fields)


def check_split_points(file: str, text: str) -> int:
    """Assert that no split changes the tokens; returns how many there are."""
    tokenizer = Tokenizer.from_str(file)
    tokenizer.encode_special_tokens = True
    parsed = parse_tokenizer(file)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    positions = split_positions(text, find_split_points(parsed), find_char_pairs(parsed))
    for at in positions:
        sides = text[:at], text[at:]
        ids = [tokenizer.encode(side, add_special_tokens=False).ids for side in sides]
        assert ids[0] + ids[1] == whole, sides
    return len(positions)


def split_positions(text: str, split_points: SplitPoints, char_pairs: CharPairs) -> list[int]:
    """Where this text may be split: see ``find_split_points`` for what a mark does."""
    positions, marked = [], False
    for at, pair in enumerate(pairwise(text), 1):
        last, first = pair[0].encode()[-1], pair[1].encode()[0]
        marked |= last == MARK
        apart = not "".join(pair).isascii() and not are_adjacent(char_pairs, *pair)
        if apart or split_points[int(marked), last, first]:
            positions.append(at)
        marked &= not (apart or split_points[1, last, first])
    return positions


def are_adjacent(char_pairs: CharPairs, *characters: str) -> bool:
    return bool(
        may_be_char_pair(
            char_pairs, *(np.uint64(int.from_bytes(one.encode(), "little")) for one in characters)
        )
    )


@given(file=tokenizer_files(), text=text_strategy)
@settings(max_examples=300)
def test_tokens_of_both_sides_of_a_split_are_the_tokens_of_the_whole(file: str, text: str) -> None:
    check_split_points(file, text)


def test_words_are_split_before_the_space_and_around_line_breaks(tokenizer: Any) -> None:
    file = tokenizer.backend_tokenizer.to_str()
    assert check_split_points(file, "we feel the night.\n\nAnd  the day <eos> é") >= 7


def test_entries_and_added_tokens_are_never_split(tokenizer: Any) -> None:
    split_points = find_split_points(parse_tokenizer(tokenizer.backend_tokenizer.to_str()))
    inside = [*tokenizer.get_vocab(), *tokenizer.all_special_tokens]
    inside += [item.replace("▁", " ") for item in inside]
    pairs = [pair for item in inside for pair in pairwise(item.encode())]
    assert len(pairs) > 1000
    assert not any(split_points[(1, *pair)] for pair in pairs)
    assert not split_points[:, :, 0x80:0xC0].any(), "a character is never split"
    assert split_points[0, "é".encode()[-1], ord(" ")]


def test_adjacent_characters_of_entries_and_added_tokens_are_in_the_filter(tokenizer: Any) -> None:
    vocab = {**fields_of(tokenizer)["model"]["vocab"], "▁漢字": 998, "é\0": 999}
    model = {**fields_of(tokenizer)["model"], "vocab": vocab}
    found = find_char_pairs(changed(tokenizer, model=model, added_tokens=[{**TOKEN, "content": "字<𠮷a"}]))
    inside = [*("▁漢", " 漢", "漢字", "é\0", "字<", "<𠮷", "𠮷a"), *(" ▁", "▁ ")]
    assert all(are_adjacent(found, *pair) for pair in inside)
    others = [*("字漢", "𠮷<", "漢\0", "字a", "é漢"), *map("".join, product(IDEOGRAPHS, IDEOGRAPHS))]
    assert not any(are_adjacent(found, *pair) for pair in others)


def test_a_sentence_without_spaces_is_split_into_words(tokenizer: Any) -> None:
    items = [*BYTES, "▁", *IDEOGRAPHS, IDEOGRAPHS[:2]]
    model = {**fields_of(tokenizer)["model"], "vocab": {item: at for at, item in enumerate(items)}}
    parsed = changed(tokenizer, model=model | {"merges": [tuple(IDEOGRAPHS[:2])]}, added_tokens=[])
    cache, text = word_cache(parsed, 64), (IDEOGRAPHS * 50).encode()
    assert (
        split_positions(IDEOGRAPHS, find_split_points(parsed), np.full(2**14, 2**64 - 1, np.uint64)) == []
    ), "by bytes it is not"
    free_rows = cache.free_rows[0]
    ids, _ = cache.encode(text, np.array([len(text)], np.int64))
    assert ids.tolist() == [items.index(item) for item in (IDEOGRAPHS[:2], IDEOGRAPHS[2], IDEOGRAPHS[3])] * 50
    assert free_rows - cache.free_rows[0] == 3


def test_entries_with_a_mark_count_after_that_mark(tokenizer: Any) -> None:
    added = [{**TOKEN, "content": "<x12>"}]
    split_points = find_split_points(changed(tokenizer, added_tokens=added))
    one_two = (ord("1"), ord("2"))
    assert (split_points[(0, *one_two)], split_points[(1, *one_two)], split_points[1, MARK, ord("x")]) == (
        True,
        False,
        False,
    )


@given(file=tokenizer_files(), text=text_strategy)
@settings(max_examples=300)
def test_the_word_cache_gives_the_ids_of_the_reference_for_any_tokenizer_that_it_takes(
    file: str, text: str
) -> None:
    # As it writes itself: it gives added tokens the ids that come next.
    parsed = parse_tokenizer(Tokenizer.from_str(file).to_str())
    try:
        cache = word_cache(parsed, 64)
    except Unsuited:
        normalized = any(token["normalized"] for token in parsed.added_tokens)
        steps = split_steps(parsed.fields["pre_tokenizer"])
        assert normalized or splits_vocabulary(steps, parsed.vocabulary)
        return
    data, ends = text.encode(), np.array([len(text.encode())], np.int64)
    right, _ = reference_encoder(Tokenizer.from_str(file)).encode(data, ends)
    for _ in range(2):
        assert cache.encode(data, ends)[0].tolist() == right.tolist()


@given(file=tokenizer_files(), length=st.integers(2, 12), following=st.sampled_from("abc<>,\n"))
@settings(max_examples=200)
def test_a_run_of_spaces_that_may_be_split_has_the_tokens_that_it_has_alone(
    file: str, length: int, following: str
) -> None:
    if find_splittable_runs(parse_tokenizer(file))[length]:
        tokenizer, run = Tokenizer.from_str(file), " " * length
        ids = [
            tokenizer.encode(text, add_special_tokens=False).ids for text in (run, following, run + following)
        ]
        assert ids[0] + ids[1] == ids[2]


@pytest.mark.parametrize(
    ("merges", "splittable"),
    [
        ([("▁", "▁"), ("▁", "a")], [True, False, True]),  # of three spaces one is left for the letter
        ([("▁", "a"), ("▁", "▁")], [False, False, False]),  # the letter takes its space first
        ([("▁", "▁"), ("▁▁", "▁"), ("▁", "a")], [True, True, True]),
        ([("▁", "▁"), ("▁▁", "a")], [False, True, False]),
        ([("a", "b")], [True, True, True]),
    ],
)
def test_which_runs_of_two_to_four_spaces_may_be_split(
    tokenizer: Any, merges: list[tuple[str, str]], splittable: list[bool]
) -> None:
    items = [*BYTES, "▁", "a", "b", *("".join(merge) for merge in merges)]
    model = {**fields_of(tokenizer)["model"], "vocab": {item: at for at, item in enumerate(items)}}
    found = find_splittable_runs(changed(tokenizer, model=model | {"merges": merges}))
    assert found[2:5].tolist() == splittable


def test_a_merge_that_occurs_twice_is_refused(tokenizer: Any) -> None:
    model = fields_of(tokenizer)["model"]
    model["merges"].append(model["merges"][0])
    with pytest.raises(Unsuited, match="occurs twice"):
        make_merge_tables(changed(tokenizer, model=model))


def test_an_added_token_of_normalized_text_is_refused_by_the_word_cache(tokenizer: Any) -> None:
    token = {**TOKEN, "normalized": True}
    with pytest.raises(Unsuited, match="'<x>' is matched in normalized text"):
        word_cache(changed(tokenizer, added_tokens=[token]))


@given(file=tokenizer_files(), text=text_strategy)
@settings(max_examples=300)
def test_a_pre_tokenizer_that_splits_no_entry_changes_no_tokens(file: str, text: str) -> None:
    fields = json.loads(file)
    steps = split_steps(fields["pre_tokenizer"])
    without = json.dumps({**fields, "pre_tokenizer": None})
    files = [file] if splits_vocabulary(steps, fields["model"]["vocab"]) else [file, without]
    ids = {tuple(Tokenizer.from_str(each).encode(text, add_special_tokens=False).ids) for each in files}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("pattern", "behavior", "item", "splits"),
    [
        ({"String": "▁"}, "MergedWithNext", "▁a", False),
        ({"String": "▁"}, "MergedWithNext", "a▁", True),
        ({"String": "▁"}, "MergedWithNext", "▁▁", True),
        ({"String": "▁"}, "MergedWithPrevious", "a▁", False),
        ({"String": "▁"}, "MergedWithPrevious", "▁a", True),
        ({"String": "▁"}, "Contiguous", "▁▁", False),
        ({"String": "▁"}, "Contiguous", "▁a", True),
        ({"Regex": r"\n+"}, "Isolated", "\n\n", False),
        ({"Regex": r"\n+"}, "Isolated", "\na", True),
        ({"Regex": r"\n"}, "Isolated", "\n\n", True),
        ({"String": "▁"}, "MergedWithNext", "\ufdd0▁", True),
    ],
)
def test_which_entries_a_step_splits(pattern: dict[str, str], behavior: str, item: str, splits: bool) -> None:
    step = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    assert splits_vocabulary(split_steps(step), {"x": 0, item: 1, "▁": 2, "\n": 3}) is splits


def test_gigatoken_loads_a_tokenizer_that_we_train(tokenizer: Any) -> None:
    file = tokenizer.backend_tokenizer.to_str()
    encoder, text = gigatoken_encoder(parse_tokenizer(file)), "we feel\n\n the  night.\nI"
    ids, _ = encoder.encode(text.encode(), np.array([len(text)], np.int64))
    assert ids.tolist() == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


TOKEN = {"id": 999, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False}
TOKEN |= {"normalized": False, "special": False}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"normalizer": {**REPLACE, "content": "_"}}, "normalizer"),
        ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE]}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre-tokenizer Metaspace"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre-tokenizer ByteLevel"),
        ({"added_tokens": [{**TOKEN, "lstrip": True}]}, "'<x>' depends on its neighbours"),
        ({"added_tokens": [{**TOKEN, "rstrip": True}]}, "'<x>' depends on its neighbours"),
        ({"added_tokens": [{**TOKEN, "single_word": True}]}, "'<x>' depends on its neighbours"),
    ],
)
def test_a_step_that_may_depend_on_text_beyond_a_split_is_refused(
    tokenizer: Any, changes: Any, why: str
) -> None:
    with pytest.raises(Unsuited, match=why):
        find_split_points(changed(tokenizer, **changes))


@pytest.mark.parametrize(
    "pattern", [{"String": "ab"}, {"Regex": r"\s+"}, {"Regex": r"\n+\b"}, {"Regex": "."}]
)
def test_a_split_at_more_than_one_character_is_refused(tokenizer: Any, pattern: dict[str, str]) -> None:
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    with pytest.raises(Unsuited, match="splits at"):
        find_split_points(changed(tokenizer, pre_tokenizer=split))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("type", "Unigram"),
        ("dropout", 0.1),
        ("byte_fallback", False),
        ("ignore_merges", True),
        ("end_of_word_suffix", "</w>"),
    ],
)
def test_a_model_that_is_not_plain_is_refused(tokenizer: Any, setting: str, value: Any) -> None:
    model = {**fields_of(tokenizer)["model"], setting: value}
    with pytest.raises(Unsuited, match=f"its model has {setting}"):
        find_split_points(changed(tokenizer, model=model))


@pytest.mark.parametrize(("lost", "why"), [("<0x41>", "lacks some bytes"), ("▁", "has no ▁")])
def test_a_vocabulary_without_all_bytes_or_the_space_is_refused(tokenizer: Any, lost: str, why: str) -> None:
    model = fields_of(tokenizer)["model"]
    del model["vocab"][lost]
    with pytest.raises(Unsuited, match=why):
        find_split_points(changed(tokenizer, model=model))


def test_a_vocabulary_that_may_merge_bytes_is_refused(tokenizer: Any) -> None:
    model = fields_of(tokenizer)["model"]
    model["vocab"]["<0x41><0x42>"] = len(model["vocab"])
    with pytest.raises(Unsuited, match="contains the name of a byte"):
        find_split_points(changed(tokenizer, model=model))


@pytest.mark.parametrize(
    ("special", "ordinary", "overlap"),
    [
        ("<eos>", "<unused0>", False),
        ("<a>b", "b", True),
        ("<a>b", "bc", True),
        ("<a>b", "<a>", True),
        ("<a>", "<a>b", False),
        ("<a>", "x<a>", False),
        ("<a>", "x<", False),
    ],
)
def test_a_special_token_in_which_an_ordinary_one_can_begin_is_found(
    special: str, ordinary: str, overlap: bool
) -> None:
    tokens = [{**TOKEN, "content": special, "special": True}, {**TOKEN, "content": ordinary}]
    assert shadowing(tokens) == ((special, ordinary) if overlap else None)
