"""From ``tokenizer.json`` to ``Merges``: the tables of the compiled merging.

For tokenizers as ``cuts`` proves them, whose pre-tokenizer divides no item and whose added tokens are looked
for in the text as it stands. Gemma's half a million merges take 0.4 s and 10 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.bpe_merge import (
    CHARACTER,
    NONE,
    NOTHING,
    RANK_BITS,
    SPECIAL,
    Merges,
    fill_first,
    fill_pairs,
)
from gemfit.data.tokenize.bpe.pretokenize_proof import BYTES, SPACE, check_provable
from gemfit.data.tokenize.bpe.split_rules import split_steps, splits_an_item
from gemfit.data.tokenize.protocol import Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson


def make_merges(tokenizer: TokenizerJson) -> Merges:
    """The tables of this tokenizer; ``Unsuited`` where they would not say all that decides its tokens."""
    check_provable(tokenizer)
    if splits_an_item(split_steps(tokenizer.fields.get("pre_tokenizer")), tokenizer.vocabulary):
        raise Unsuited("its pre-tokenizer divides items of its vocabulary")
    for token in tokenizer.added_tokens:
        if token["normalized"]:
            raise Unsuited(f"the added token {token['content']!r} is looked for in normalized text")
    vocabulary, merges = tokenizer.vocabulary, tokenizer.model["merges"]
    spaces = {} if tokenizer.fields.get("normalizer") is None else {ord(" "): vocabulary[SPACE]}
    characters = {ord(item): number for item, number in vocabulary.items() if len(item) == 1} | spaces
    if max(vocabulary.values()) >= CHARACTER or len(merges) + len(characters) >= 2**RANK_BITS:
        raise Unsuited("its vocabulary is very large")
    become = [vocabulary[left + right] for left, right in merges] + list(characters.values())
    pairs = _pairs(vocabulary, merges, list(characters))
    ascii = np.array([characters.get(code, NONE) for code in range(128)], np.uint32)
    first = np.empty((128, 128), np.uint32)
    fill_first(pairs, ascii, first)
    byte_ids = np.array([vocabulary[name] for name in BYTES], np.uint32)
    return Merges(pairs, np.array(become, np.uint32), first, ascii, byte_ids, *_trie(tokenizer.added_tokens))


def _pairs(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], characters: Sequence[int]
) -> NDArray[np.uint64]:
    """The hash table of the merges and, behind them, of the characters; at most two thirds full."""
    lefts = [vocabulary[left] for left, _ in merges] + [int(CHARACTER)] * len(characters)
    rights = [vocabulary[right] for _, right in merges] + list(characters)
    pairs = np.empty(1 << (3 * len(lefts) // 2).bit_length(), np.uint64)
    if not fill_pairs(np.array(lefts, np.uint64), np.array(rights, np.uint64), pairs):
        raise Unsuited("one of its merges comes twice")
    return pairs


def _trie(
    tokens: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]:
    """Classes, nodes and marks; see ``Merges``."""
    contents = {token["content"].encode(): SPECIAL if token["special"] else token["id"] for token in tokens}
    alphabet = sorted(set(b"".join(contents)))
    classes = np.zeros(256, np.uint8)
    classes[alphabet] = np.arange(1, len(alphabet) + 1)
    numbers = {b"": 0}
    for content in contents:
        for size in range(1, len(content) + 1):
            numbers.setdefault(content[:size], len(numbers))
    trie = np.zeros((len(numbers), len(alphabet) + 1), np.int32)
    ends = np.full(len(numbers), NOTHING, np.int64)
    for head, number in numbers.items():
        if head:
            trie[numbers[head[:-1]], classes[head[-1]]] = number
            ends[number] = contents.get(head, NOTHING)
    return classes, trie, ends
