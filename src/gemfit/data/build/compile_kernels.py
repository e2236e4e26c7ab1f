"""Compile kernels in processes of their own, while the tokenizer is loaded.

One calls what renders a block, one what plans and gathers rows, with a handful of made-up conversations.
Both are compiled once for each version of the code and kind of processor, see ``compiled``.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.core.stop_signals import end_with_parent
from gemfit.data.build.block_cache import BlockCache, BlockNotes
from gemfit.data.build.conversation_table import Collector, ConversationTable
from gemfit.data.build.fit_block import fit_rows
from gemfit.data.build.map_blocks import MappedBlock
from gemfit.data.build.row_gather import BlockFiles, RowBuffers, RowChunks, gather
from gemfit.data.build.row_plan import plan_split
from gemfit.data.compiled import all_compiled_marker, compiled_folder, kernels_compile
from gemfit.data.dedup.minhash import NUM_HASHES, signatures
from gemfit.data.filter.select_conversations import select_conversations
from gemfit.data.filter.selection import TRAIN, SelectionInput
from gemfit.data.jsonl.line_group import CODES
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.jsonl.message_batch import Messages, TokenizedBlock
from gemfit.data.jsonl.repeated_keys import may_repeat_keys
from gemfit.data.render.assemble_ids import ControlIds, assemble_ids
from gemfit.data.render.content_hash import content_digests, normalized_hashes
from gemfit.data.tokenize.sampling import sample_texts
from gemfit.schemas.recipe_data import DataRecipe

NUM_CONVERSATIONS, CHUNKS = 8, 3
"""Of the data that the kernels are called with: enough for every branch that a type depends on."""
SEQ_LEN = 32


@contextmanager
def compiling(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Compile in the background for as long as the block lasts; yields what waits for it to be done."""
    if not kernels_compile():
        yield lambda: None
        return
    marker = all_compiled_marker()
    if marker.exists():
        yield lambda: None
        return
    say(f"compiling kernels, once for this version and processor; they are kept in {compiled_folder()}")
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            fork.Process(target=_compile, args=(work, Path(folder)), daemon=True)
            for work in (render_block, plan_and_gather)
        ]
        for process in processes:
            process.start()

        def wait() -> None:
            for process in processes:
                process.join()
            if all(process.exitcode == 0 for process in processes):
                marker.touch()

        try:
            yield wait
        finally:
            for process in processes:
                process.kill()
                process.join()


def _compile(work: Callable[[Path], None], folder: Path) -> None:
    # Ctrl-C reaches the whole group; the parent decides, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)  # it holds the lock of the build, and compiles for minutes
    work(folder)


def render_block(_: Path) -> None:
    """Read, render, fit and hash a few conversations, some of them longer than a row; writes nothing."""
    may_repeat_keys([b"{}"], [], [])
    turns = np.tile(np.array([CODES["user"], CODES["assistant"]], np.uint8), 3 * NUM_CONVERSATIONS)
    contents = [b"words of a message" * (number % 3) for number in range(len(turns))]
    ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
    last = np.arange(6, len(turns) + 1, 6, dtype=np.int64)
    turns.setflags(write=False)  # as those of a block that was read
    lines = np.arange(1, len(last) + 1)
    messages = Messages(text=b"".join(contents), ends=ends, roles=turns, last=last, lines=lines)
    places = 4 + 2 * len(ROLES)
    control = ControlIds(
        np.ones(places, np.uint32), np.arange(places + 1), system_inside=True, train_all=True
    )
    ids = np.arange(ends[-1], dtype=np.uint32)
    sample_texts(messages.text, ends, 1)
    assembled = assemble_ids(ids, ends, messages, control)
    fit_rows(assembled, messages, control, "split", SEQ_LEN)
    content_digests(messages)
    normalized_hashes(messages)
    signatures(ids, ends, last, turns, NUM_HASHES["group"])


def plan_and_gather(folder: Path) -> None:
    """Go through planning and gathering once, with a handful of made-up conversations."""
    data = DataRecipe(source="made up", seq_len=SEQ_LEN, validation_share=0.0)
    table = _table(BlockCache(folder, "blocks"), data)
    candidates = SelectionInput(
        digests=table.digests,
        normalized_hashes=table.normalized_hashes,
        signatures=table.signatures,
        source=np.zeros(NUM_CONVERSATIONS, np.int16),
        disposition=np.zeros(NUM_CONVERSATIONS, np.int8),
    )
    selection = select_conversations(candidates, data, seed=0)
    table.signatures.close()
    plan = plan_split(table, selection, TRAIN, SEQ_LEN, tight=True)
    files = BlockFiles.of(table.paths)
    chunks = RowChunks(plan.first, plan.num_fragments, plan.lengths, plan.row_ends)
    gather(chunks, table.fragments, files, RowBuffers.of(plan.num_rows, SEQ_LEN), pad=0)
    files.close()


def _table(store: BlockCache, data: DataRecipe) -> ConversationTable:
    store.write("a", _block(), BlockNotes(lines=NUM_CONVERSATIONS, blank=0, rejected=(), pii={}, engine=""))
    collector = Collector(store, data)
    collector.add(MappedBlock(number=0, input=0, key="a", lines=NUM_CONVERSATIONS, state="made"))
    return collector.finish()[0]


def _block() -> TokenizedBlock:
    """A block of conversations of ``CHUNKS`` chunks each, all different."""
    chunks = NUM_CONVERSATIONS * CHUNKS
    numbers = np.arange(NUM_CONVERSATIONS)
    continues = np.arange(chunks) % CHUNKS > 0
    lengths, context = np.full(chunks, SEQ_LEN // 2 - 1, np.int32), np.full(chunks, 2, np.int32)
    stored = int(lengths.sum() + (lengths - context)[continues].sum())
    columns: dict[str, NDArray[Any]] = {
        "words": np.ones(stored, np.uint32),
        "lengths": lengths,
        "context": context,
        "starts": np.zeros(chunks, np.int32),
        "continues": continues,
        "mid_message": np.zeros(chunks, np.bool_),
        "conversation": (np.arange(chunks) // CHUNKS).astype(np.int32),
        "lines": numbers + 1,
        "digests": np.stack([numbers, numbers], 1).astype(np.uint64),
        "normalized_hashes": numbers.astype(np.uint64),
        "signatures": np.full((NUM_CONVERSATIONS, NUM_HASHES["group"]), 1, np.uint32),
        "role_tokens": np.zeros((NUM_CONVERSATIONS, len(ROLES)), np.int32),
    }
    columns |= {
        field.name: np.zeros(NUM_CONVERSATIONS, np.int32)
        for field in fields(TokenizedBlock)
        if field.name not in columns
    }
    return TokenizedBlock(**columns)
