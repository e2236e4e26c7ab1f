"""Encoder selection: the fastest engine with the ids of the reference, verified on a sample of the data.

The first choice is the word cache; where it is not proven to be exact, gigatoken. The candidate encodes a
sample of the data and adversarial texts twice, with an empty and a filled cache, and is compared with the
reference, which takes 0.1 s for Gemma. On any difference the reference encodes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from gemfit.data.tokenize.adversarial_texts import adversarial_texts
from gemfit.data.tokenize.gigatoken import gigatoken_encoder
from gemfit.data.tokenize.hf_tokenizers import reference_encoder
from gemfit.data.tokenize.protocol import Encoder, Engine, EngineMismatch, Texts, Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson, parse_tokenizer
from gemfit.data.tokenize.verification import VerificationSample, check_ends, compare, take
from gemfit.errors import UserError

SAMPLE_BYTES = 2**18
"""Size of the verification sample: texts taken evenly from the sample of the input."""
HEAD_BYTES = 2**14
"""Bytes of each text that are used, at most."""

Say = Callable[[str], None]


def select_encoder(
    tokenizer_json: str | bytes,
    sample: Texts,
    say: Say,
    *,
    engine: Engine = "auto",
    tokenizer: Any = None,
) -> Encoder:
    """The fastest encoder with the ids of ``tokenizers``.

    ``tokenizer_json`` is that of the tokenizer in use (``to_str()``), which may differ from a file next
    to it; ``tokenizer`` is the same, where it is loaded. ``say`` gets one line whenever it is not the first
    choice. ``engine`` forces one: ``tokenizers``, plain, or ``gigatoken``, where ``UserError`` says that it
    is missing, or that its ids differ.
    """
    if tokenizer is None:
        data = tokenizer_json if isinstance(tokenizer_json, bytes) else tokenizer_json.encode()
        tokenizer = Tokenizer.from_buffer(data)
    reference = reference_encoder(tokenizer)
    if engine == "tokenizers":
        return reference
    parsed = parse_tokenizer(tokenizer_json)
    candidate = _candidate(parsed, reference, engine, say)
    if candidate is reference:
        return reference
    try:
        verify_encoder(
            candidate,
            reference,
            [*even_sample(sample), *(text.encode() for text in adversarial_texts(parsed))],
        )
    except EngineMismatch as difference:
        if engine == "gigatoken":
            raise UserError(f"engine gigatoken: {difference}; use engine: auto or tokenizers") from None
        say(f"tokenizers encodes, since {difference}")
        return reference
    return candidate


def verify_encoder(candidate: Encoder, reference: Encoder, texts: Sequence[bytes]) -> None:
    """Raise ``EngineMismatch`` where the ids of these texts differ, at the first or the second time."""
    ends = np.cumsum(np.array([len(text) for text in texts], np.int64))
    joined = b"".join(texts)
    both = [candidate.encode(joined, ends) for _ in range(2)]
    everything = np.arange(len(texts))
    for ids, id_ends in both:
        check_ends(candidate.name, ids, id_ends, len(texts))
    compare(VerificationSample(candidate.name, list(texts), take(*both[0], everything)), reference)
    if not all(np.array_equal(first, second) for first, second in zip(*both, strict=True)):
        raise EngineMismatch(f"{candidate.name} gives other ids the second time")


def _candidate(parsed: TokenizerJson, reference: Encoder, engine: Engine, say: Say) -> Encoder:
    try:
        if engine == "auto":
            # Only here: small inputs, and other engines, need none of the compiled BPE.
            from gemfit.data.tokenize.bpe.word_cache import word_cache  # noqa: PLC0415

            return word_cache(parsed)
    except Unsuited as why:
        uncached = str(why)
    try:
        chosen: Encoder = gigatoken_encoder(parsed)
    except Unsuited as why:
        if engine == "gigatoken":
            raise UserError(f"engine gigatoken: {why}; or use engine: auto or tokenizers") from None
        say(f"tokenizers encodes, without a word cache, since {uncached}; gigatoken cannot be used: {why}")
        return reference
    if engine == "auto":
        say(f"gigatoken encodes, without a word cache, since {uncached}")
    return chosen


def even_sample(sample: Texts) -> list[bytes]:
    """Texts taken evenly from the sample, up to ``SAMPLE_BYTES`` in all."""
    every = max(1, -(-len(sample.text) // SAMPLE_BYTES))
    picked = np.arange(0, len(sample.ends), every)
    # The beginning of a long text; a character that is cut in two is left out.
    heads = [text[:HEAD_BYTES] for text in take(sample.text, sample.ends, picked)]
    texts = [head.decode(errors="ignore").encode() for head in heads]
    fits = np.cumsum([len(text) for text in texts]) <= SAMPLE_BYTES
    return [text for text, fit in zip(texts, fits, strict=True) if fit]
