"""BPE merge tables: from ``tokenizer.json`` to the arrays of ``MergeTables``.

For tokenizers that pass ``check_provable``, whose pre-tokenizer splits no entry of the vocabulary and whose
added tokens are matched in the raw text. Gemma's half a million merges take 0.4 s and 10 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.bpe_merge import NO_TOKEN, SPECIAL, MergeTables
from gemfit.data.tokenize.bpe.pair_table import CHARACTER, NONE, RANK_BITS, fill_ascii_ranks, fill_pairs
from gemfit.data.tokenize.bpe.pretokenize_proof import BYTES, SPACE, check_provable
from gemfit.data.tokenize.bpe.split_rules import split_steps, splits_vocabulary
from gemfit.data.tokenize.protocol import Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson


def make_merge_tables(tokenizer: TokenizerJson) -> MergeTables:
    """The tables of this tokenizer; ``Unsuited`` where its tokens depend on more than the tables hold."""
    check_provable(tokenizer)
    if splits_vocabulary(split_steps(tokenizer.fields.get("pre_tokenizer")), tokenizer.vocabulary):
        raise Unsuited("its pre-tokenizer splits entries of its vocabulary")
    for token in tokenizer.added_tokens:
        if token["normalized"]:
            raise Unsuited(f"the added token {token['content']!r} is matched in normalized text")
    vocabulary, merges = tokenizer.vocabulary, tokenizer.model["merges"]
    spaces = {} if tokenizer.fields.get("normalizer") is None else {ord(" "): vocabulary[SPACE]}
    characters = {ord(entry): number for entry, number in vocabulary.items() if len(entry) == 1} | spaces
    if max(vocabulary.values()) >= CHARACTER or len(merges) + len(characters) >= 2**RANK_BITS:
        raise Unsuited("its vocabulary is very large")
    merged = [vocabulary[left + right] for left, right in merges] + list(characters.values())
    pairs = _pairs(vocabulary, merges, list(characters))
    ascii = np.array([characters.get(code, NONE) for code in range(128)], np.uint32)
    ascii_ranks = np.empty((128, 128), np.uint32)
    fill_ascii_ranks(pairs, ascii, ascii_ranks)
    byte_ids = np.array([vocabulary[name] for name in BYTES], np.uint32)
    trie = _trie(tokenizer.added_tokens)
    return MergeTables(pairs, np.array(merged, np.uint32), ascii_ranks, ascii, byte_ids, *trie)


def _pairs(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], characters: Sequence[int]
) -> NDArray[np.uint64]:
    """Hash table of the merges and, after them, of the characters; at most two thirds full."""
    lefts = [vocabulary[left] for left, _ in merges] + [int(CHARACTER)] * len(characters)
    rights = [vocabulary[right] for _, right in merges] + list(characters)
    pairs = np.empty(1 << (3 * len(lefts) // 2).bit_length(), np.uint64)
    if not fill_pairs(np.array(lefts, np.uint64), np.array(rights, np.uint64), pairs):
        raise Unsuited("one of its merges occurs twice")
    return pairs


def _trie(
    tokens: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]:
    """The trie of the added tokens: byte classes, nodes, and the id or mark of each node."""
    contents = {token["content"].encode(): SPECIAL if token["special"] else token["id"] for token in tokens}
    alphabet = sorted(set(b"".join(contents)))
    byte_classes = np.zeros(256, np.uint8)
    byte_classes[alphabet] = np.arange(1, len(alphabet) + 1)
    numbers = {b"": 0}
    for content in contents:
        for size in range(1, len(content) + 1):
            numbers.setdefault(content[:size], len(numbers))
    trie = np.zeros((len(numbers), len(alphabet) + 1), np.int32)
    ends = np.full(len(numbers), NO_TOKEN, np.int64)
    for head, number in numbers.items():
        if head:
            trie[numbers[head[:-1]], byte_classes[head[-1]]] = number
            ends[number] = contents.get(head, NO_TOKEN)
    return byte_classes, trie, ends
