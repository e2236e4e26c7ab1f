"""Where a text may be cut without changing its tokens, and the proof that this holds.

The claim: if characters *a* and *b* stand together, in this order, in no item of the vocabulary and in no
added token, then the tokens of a text with *ab* in it are the tokens of what ends in *a*, followed by those
of what begins with *b*. ``find_cuts`` grants it only to a tokenizer for which every step below holds, and
says otherwise why not. It goes by the last byte of *a* and the first of *b*: if these two are neighbours
nowhere, neither are the characters. ``find_char_pairs`` goes by the characters themselves.

1. Added tokens are looked for first, the leftmost and among those the longest. None spans the cut, since
   none has *ab* in it, and none looks at its neighbours (``single_word``, ``lstrip``, ``rstrip``). So each
   side finds its own, special ones included, whether or not they are then passed over.
2. The normalizer is none, or replaces each space by ``▁``: it works character by character. An item counts
   twice, with its ``▁`` as they are and read as spaces. Between a space and a ``▁`` nothing is cut.
3. The pre-tokenizer is none, or splits at one character or at runs of one: where it splits depends on
   that character alone, but for a run that the cut divides, and there it differs only at the cut.
4. The model is BPE without dropout, affixes or whole words looked up before merging. A character is an item
   or becomes its bytes; all 256 bytes are items, so that nothing is unknown and nothing is fused. The name
   of a byte stands in no other item, so bytes are never merged.
5. A merge joins two items to an item which is their texts joined. What spans the cut would have *ab* in
   it, and is no item. So no merge spans the cut, and merges on one side never look at the other.

An item in which *ab* comes behind a ``<`` can stand there only if a ``<`` does: between the last cut and *b*.
Where there is none, such items do not count. So numbers are cut, although Gemma has ``<unused12>``.
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
_BETWEEN = "\0"  # Between two items; it separates, but does not allow a cut next to such a character.
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PLAIN_BPE: Mapping[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (True,),
    "ignore_merges": (None, False),
}

Cuts = NDArray[np.bool_]


def check_provable(tokenizer: TokenizerJson) -> None:
    """Raise ``Unsuited`` unless steps 1 to 5 hold."""
    _check_added_tokens(tokenizer)
    _check_normalizer(tokenizer)
    split_steps(tokenizer.fields.get("pre_tokenizer"))
    _check_model(tokenizer)


def find_cuts(tokenizer: TokenizerJson) -> Cuts:
    """(2, 256, 256): whether a text may be cut between two bytes, and whether even behind a ``<``.

    ``Unsuited`` where that is not proven.
    """
    check_provable(tokenizer)
    joined = _BETWEEN.join(_items(tokenizer))
    data = np.frombuffer(_BETWEEN.join([joined, joined.replace(SPACE, " ")]).encode(), np.uint8)
    # Where the latest mark is, and the end of the item before.
    places = np.arange(len(data))
    mark, end = (np.maximum.accumulate(np.where(data == byte, places, -1)) for byte in (MARK, 0))
    unmarked = mark[:-1] <= end[:-1]
    cuts = np.ones((2, 256, 256), np.bool_)
    cuts[0, data[:-1][unmarked], data[1:][unmarked]] = False
    cuts[1, data[:-1], data[1:]] = False
    cuts[:, :, 0x80:0xC0] = False  # inside a character
    space = SPACE.encode()
    cuts[:, ord(" "), space[0]] = cuts[:, space[-1], ord(" ")] = False
    return cuts


def find_char_pairs(tokenizer: TokenizerJson) -> CharPairs:
    """Which characters stand together, of all that are not both ASCII; between others texts may be cut.

    ``Unsuited`` where that is not proven. Items behind a ``<`` count as all others do.
    """
    check_provable(tokenizer)
    items = _items(tokenizer)
    spaces = [item.replace(SPACE, " ") for item in items if SPACE in item]
    return mark_char_pairs([*items, *spaces, f" {SPACE} "])


def _items(tokenizer: TokenizerJson) -> list[str]:
    return [*tokenizer.vocabulary, *(token["content"] for token in tokenizer.added_tokens)]


def _check_added_tokens(tokenizer: TokenizerJson) -> None:
    for token in tokenizer.added_tokens:
        if token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise Unsuited(f"the added token {token['content']!r} looks at its neighbours")


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
    names = re.findall(r"<0x[0-9A-F]{2}>", _BETWEEN.join(vocabulary))
    if len(names) != len(BYTES):
        raise Unsuited("an item of its vocabulary has the name of a byte in it")
