"""Exact split points: where a text may be split without changing its BPE tokens, with the proof.

Theorem: if the characters *a* and *b* are adjacent, in this order, in no vocabulary entry and in no added
token, then the tokens of a text with *ab* in it are the tokens of the part that ends with *a*, followed by
those of the part that begins with *b*. ``find_split_points`` applies it only to a tokenizer for which every
step below holds, and otherwise raises why not. It tests the last byte of *a* and the first byte of *b*: if
these two are adjacent nowhere, neither are the characters. ``find_char_pairs`` tests the characters.

1. Added tokens are matched first, leftmost and longest. None spans the split, since none contains *ab*,
   and none depends on its neighbours (``single_word``, ``lstrip``, ``rstrip``). So each side matches its own,
   special tokens included, whether or not they are then treated as text.
2. There is no normalizer, or it replaces each space by ``▁``: it works character by character. An entry
   counts twice, with its ``▁`` as they are and as spaces. Between a space and a ``▁`` nothing is split.
3. There is no pre-tokenizer, or it splits at one character or at runs of one: where it splits depends on that
   character alone, except for a run that is split here, and there it differs only at the split.
4. The model is BPE without dropout, affixes or lookup of whole words before merging. A character is an
   entry or becomes its bytes; all 256 bytes are entries, so nothing is unknown and nothing is fused. The
   name of a byte occurs in no other entry, so bytes are never merged.
5. A merge joins two symbols to an entry that is the concatenation of their texts. One that spans the split
   would contain *ab*, and is not an entry. So no merge spans the split, and merges on one side do not depend
   on the other side.

An entry in which *ab* comes after a ``<`` can match only if there is a ``<`` between the last split and
*b*. Where there is none, such entries do not count: numbers are split, although Gemma has ``<unused12>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.char_pairs import CharPairs, mark_char_pairs
from gemfit.data.tokenize.bpe.split_rules import split_steps
from gemfit.data.tokenize.protocol import Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson

SPACE = "▁"
MARK = ord("<")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SEPARATOR = "\0"  # Between two entries; a text is never split next to such a character.
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PLAIN_BPE: Mapping[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (True,),
    "ignore_merges": (None, False),
}

SplitPoints = NDArray[np.bool_]


def check_provable(tokenizer: TokenizerJson) -> None:
    """Raise ``Unsuited`` unless steps 1 to 5 hold."""
    _check_added_tokens(tokenizer)
    _check_normalizer(tokenizer)
    split_steps(tokenizer.fields.get("pre_tokenizer"))
    _check_model(tokenizer)


def find_split_points(tokenizer: TokenizerJson) -> SplitPoints:
    """(2, 256, 256): whether a text may be split between two bytes; [1] also holds after a ``<``.

    ``Unsuited`` where that is not proven.
    """
    check_provable(tokenizer)
    joined = _SEPARATOR.join(_entries(tokenizer))
    data = np.frombuffer(_SEPARATOR.join([joined, joined.replace(SPACE, " ")]).encode(), np.uint8)
    # Positions of the latest mark, and of the latest end of an entry.
    positions = np.arange(len(data))
    mark, end = (np.maximum.accumulate(np.where(data == byte, positions, -1)) for byte in (MARK, 0))
    unmarked = mark[:-1] <= end[:-1]
    split_points = np.ones((2, 256, 256), np.bool_)
    split_points[0, data[:-1][unmarked], data[1:][unmarked]] = False
    split_points[1, data[:-1], data[1:]] = False
    split_points[:, :, 0x80:0xC0] = False  # inside a character
    space = SPACE.encode()
    split_points[:, ord(" "), space[0]] = split_points[:, space[-1], ord(" ")] = False
    return split_points


def find_char_pairs(tokenizer: TokenizerJson) -> CharPairs:
    """Characters that are adjacent in entries, of all pairs that are not both ASCII; others may be split.

    ``Unsuited`` where that is not proven. Entries with a ``<`` count like all others.
    """
    check_provable(tokenizer)
    entries = _entries(tokenizer)
    spaces = [entry.replace(SPACE, " ") for entry in entries if SPACE in entry]
    return mark_char_pairs([*entries, *spaces, f" {SPACE} "])


def _entries(tokenizer: TokenizerJson) -> list[str]:
    """Vocabulary entries and added tokens."""
    return [*tokenizer.vocabulary, *(token["content"] for token in tokenizer.added_tokens)]


def _check_added_tokens(tokenizer: TokenizerJson) -> None:
    for token in tokenizer.added_tokens:
        if token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise Unsuited(f"the added token {token['content']!r} depends on its neighbours")


def _check_normalizer(tokenizer: TokenizerJson) -> None:
    normalizer = tokenizer.fields.get("normalizer")
    if normalizer is None:
        return
    if normalizer != _NORMALIZER:
        raise Unsuited(f"its normalizer is not the replacement of spaces by {SPACE}")
    if SPACE not in tokenizer.vocabulary:
        # A space would become three bytes, more tokens than the text has bytes.
        raise Unsuited(f"its vocabulary has no {SPACE}")


def _check_model(tokenizer: TokenizerJson) -> None:
    for setting, plain in _PLAIN_BPE.items():
        if tokenizer.model.get(setting) not in plain:
            raise Unsuited(f"its model has {setting} {tokenizer.model.get(setting)!r}")
    vocabulary = tokenizer.vocabulary
    if any(name not in vocabulary for name in BYTES):
        raise Unsuited("its vocabulary lacks some bytes")
    names = re.findall(r"<0x[0-9A-F]{2}>", _SEPARATOR.join(vocabulary))
    if len(names) != len(BYTES):
        raise Unsuited("an entry of its vocabulary contains the name of a byte")
