"""Script of a tokenizer's trial: ``python -P try_tokenizer.py TOKENIZER.json`` encodes and decodes texts.

The texts are those that patterns without an end do badly on, and those that the file's own patterns
replace. It imports nothing of gemfit, which would take longer than the trial.
"""

from __future__ import annotations

import json
import resource
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CPU_SECONDS = 20
"""Time limit of a trial, whatever else the machine does; tokenizers in use take less than 2 seconds of it."""
MEMORY_BYTES = 16 * 2**30
"""Limit of its address space, most of which is never touched."""
FAILED = 3
"""Exit status."""
CHARACTERS = 2000
"""Length of a text."""
UNITS = ("a", "A", "1", " ", "\n", "\t", ".", "'", "▁", "ä", "漢", "aA", "a1", "a ", ". ", " \n", "ab'")
ENDS = ("", "!", "\n", "x")
MOST_UNITS = 50
"""Strings of the file that are repeated to a text each."""
STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
GROWTH, CONSTANT = 64, 256
"""A stage may write ``GROWTH`` tokens or characters for each that it reads, and ``CONSTANT`` more.

Normal forms of Unicode write 18 characters for one, byte fallback 4 tokens.
"""


class GrowthError(Exception):
    """A stage writes far more than it reads."""


def main() -> int:
    """Exit status ``FAILED`` where a text fails, 0 where all are encoded or the file itself is damaged."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tokenizers import Tokenizer  # noqa: PLC0415  (after the limits)

    try:
        tokenizer = Tokenizer.from_file(sys.argv[1])
    except Exception:  # the Rust side raises nothing narrower
        return 0
    try:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for text in texts(own_strings(sys.argv[1])):
            try_text(tokenizer, text)
    except BaseException as error:  # a panic is no Exception
        why = str(error).splitlines() or ["no details"]
        stage = "" if isinstance(error, GrowthError) else "its patterns fail: "
        sys.stderr.write(f"\n{stage}{why[0]}\n")
        return FAILED
    return 0


def try_text(tokenizer: Any, text: str) -> None:
    """Encode ``text`` and decode its ids; ``GrowthError`` where a stage writes far more than it reads."""
    if tokenizer.normalizer is not None:
        check_growth("its normalizer", len(text), len(tokenizer.normalizer.normalize_str(text)))
    encoded = tokenizer.encode(text, add_special_tokens=True)
    check_growth("encoding", len(text), len(encoded.ids))
    tokens = sum(map(len, encoded.tokens))
    check_growth("decoding", tokens, len(tokenizer.decode(encoded.ids, skip_special_tokens=False)))


def check_growth(what: str, read: int, written: int) -> None:
    """``GrowthError`` where ``written`` is far more than ``read``."""
    if written > GROWTH * read + CONSTANT:
        raise GrowthError(f"{what} makes {written:,} of {read:,} characters or tokens")


def texts(own: list[str]) -> Iterator[str]:
    """An empty one, each character of ASCII, each of ``own``, all of them joined, and repeated units."""
    yield from ("", *string.printable, *own)
    joined = string.printable + "".join(own)
    yield from (joined[start : start + CHARACTERS] for start in range(0, len(joined), CHARACTERS))
    for unit in (*UNITS, *own[:MOST_UNITS]):
        for end in ENDS:
            yield unit[:CHARACTERS] * max(1, CHARACTERS // len(unit)) + end


def own_strings(path: str) -> list[str]:
    """The strings in the stages of a ``tokenizer.json``, without names of fields and types."""
    fields = json.loads(Path(path).read_text("utf-8"))
    found = (text for stage in STAGES for text in strings(fields.get(stage)))
    return list(dict.fromkeys(text[:CHARACTERS] for text in found if text))


def strings(value: Any) -> Iterator[str]:
    """All strings in ``value``; of ``Precompiled`` none, whose map is data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, dict) and value.get("type") != "Precompiled":
        for key, one in value.items():
            yield from strings(one) if key != "type" else ()


if __name__ == "__main__":
    sys.exit(main())
