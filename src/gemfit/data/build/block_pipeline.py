"""Tokenize one block: read, check, encode, render, label, fit.

A tokenized block depends on the bytes of its lines, the tokenizer and the settings, on nothing else.
Conversations stay arrays all the way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.build.fit_block import fit_rows
from gemfit.data.dedup.minhash import signatures
from gemfit.data.filter.pii import scan_pii
from gemfit.data.jsonl.batch_parser import read_block
from gemfit.data.jsonl.block_counts import BlockCounts
from gemfit.data.jsonl.message_batch import Messages, TokenizedBlock
from gemfit.data.jsonl.message_columns import Reject
from gemfit.data.render.assemble_ids import assemble_ids
from gemfit.data.render.content_hash import content_digests, normalized_hashes
from gemfit.data.render.render_context import RenderContext
from gemfit.data.render.trim import trimmed
from gemfit.data.tokenize.verification import sample_encoded


def make_block(
    block: bytes, first_line: int, path: str, context: RenderContext, reject: Reject | None
) -> tuple[TokenizedBlock, BlockCounts]:
    """Tokenize a block of whole JSON lines; also counts of what was found in it.

    ``first_line`` is the number of the block's first line in ``path``, from 1. Each bad line goes to
    ``reject``; without it the first one is a ``UserError``. Both name the line as ``path:line``.
    """
    messages, counts = read_block(block, first_line, path, context, reject, context.line_settings)
    counts.empty_messages = messages.count_empty()
    if context.pii != "ignore":
        messages, counts.pii = scan_pii(messages, context.pii)
    text, text_ends = trimmed(messages, context.renderer.segments.trimmed)
    ids, ends = context.encoder.encode(text, text_ends)
    counts.sample = sample_encoded(context.encoder, text, text_ends, ids, ends)
    assembled = assemble_ids(ids, ends, messages, context.control)
    fitted = fit_rows(assembled, messages, context.control, context.overlong, context.seq_len)
    return TokenizedBlock(
        **fitted._asdict(),
        lines=messages.lines,
        digests=content_digests(messages),
        normalized_hashes=normalized_hashes(messages),
        signatures=_signatures(ids, ends, messages, context.num_hashes),
        tokens=assembled.tokens,
        trained=assembled.trained,
        role_tokens=assembled.role_tokens,
    ), counts


def _signatures(
    ids: NDArray[np.uint32], ends: NDArray[np.int64], messages: Messages, num_hashes: int
) -> NDArray[np.uint32]:
    if not num_hashes or not len(messages.last):
        return np.empty((len(messages.last), num_hashes), np.uint32)
    return signatures(ids, ends, messages.last, messages.roles, num_hashes)
