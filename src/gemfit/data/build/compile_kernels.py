"""Compile the kernels that plan and gather rows in a process of their own, while the first block is rendered.

The blocks' kernels are compiled by the worker that gets the first block; those that come after it would
wait for that. Both are compiled once for each version of the code and kind of processor, see ``compiled``.
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
from llvmlite import binding  # type: ignore[import-untyped]
from numpy.typing import NDArray

from gemfit.data.build.block_cache import PartNotes, PartStore
from gemfit.data.build.conversation_table import Collector, Talks
from gemfit.data.build.map_blocks import Made
from gemfit.data.build.row_gather import PartFiles, Pieces, Room, gather
from gemfit.data.build.row_plan import plan_split
from gemfit.data.compiled import compiled_folder
from gemfit.data.dedup.minhash import NUM_HASHES
from gemfit.data.filter.selection import TRAIN, Candidates, choose
from gemfit.data.jsonl.conversation import ROLES
from gemfit.data.jsonl.message_batch import Part
from gemfit.schemas.recipe import DataRecipe

NUM_CONVERSATIONS, CHUNKS = 8, 3
"""Of the data that the kernels are called with: enough for every branch that a type depends on."""
SEQ_LEN = 32


@contextmanager
def compiling(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Compile in the background for as long as the block lasts; yields what waits for it to be done."""
    marker = compiled_folder() / f"planned-{binding.get_host_cpu_name()}"
    if marker.exists():
        yield lambda: None
        return
    say(f"compiling kernels, once for this version and processor; they are kept in {compiled_folder()}")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (marker, Path(folder))
        process = multiprocessing.get_context("fork").Process(target=_compile, args=arguments, daemon=True)
        process.start()
        try:
            yield process.join
        finally:
            process.kill()
            process.join()


def _compile(marker: Path, folder: Path) -> None:
    # Ctrl-C reaches the whole group; the parent decides, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    plan_and_gather(folder)
    marker.touch()


def plan_and_gather(folder: Path) -> None:
    """Go through planning and gathering once, with a handful of made-up conversations."""
    data = DataRecipe(source="made up", seq_len=SEQ_LEN, validation_share=0.0)
    table = _table(PartStore(folder, "blocks"), data)
    candidates = Candidates(
        digests=table.digests,
        likeness=table.likeness,
        signatures=table.signatures,
        source=np.zeros(NUM_CONVERSATIONS, np.int16),
        fate=np.zeros(NUM_CONVERSATIONS, np.int8),
    )
    choice = choose(candidates, data, seed=0)
    table.signatures.close()
    plan = plan_split(table, choice, TRAIN, SEQ_LEN, tight=True)
    files = PartFiles.of(table.paths)
    pieces = Pieces(plan.first, plan.num_atoms, plan.lengths, plan.row_ends)
    gather(pieces, table.atoms, files, Room.of(plan.num_rows, SEQ_LEN), pad=0)
    files.close()


def _table(store: PartStore, data: DataRecipe) -> Talks:
    store.write("a", _block(), PartNotes(lines=NUM_CONVERSATIONS, blank=0, rejected=(), pii={}, engine=""))
    collector = Collector(store, data)
    collector.add(Made(number=0, input=0, key="a", lines=NUM_CONVERSATIONS, state="made"))
    return collector.finish()[0]


def _block() -> Part:
    """A block of conversations of ``CHUNKS`` chunks each, all different."""
    chunks = NUM_CONVERSATIONS * CHUNKS
    numbers = np.arange(NUM_CONVERSATIONS)
    linked = np.arange(chunks) % CHUNKS > 0
    lengths, context = np.full(chunks, SEQ_LEN // 2 - 1, np.int32), np.full(chunks, 2, np.int32)
    stored = int(lengths.sum() + (lengths - context)[linked].sum())
    columns: dict[str, NDArray[Any]] = {
        "words": np.ones(stored, np.uint32),
        "lengths": lengths,
        "context": context,
        "starts": np.zeros(chunks, np.int32),
        "linked": linked,
        "torn": np.zeros(chunks, np.bool_),
        "conversation": (np.arange(chunks) // CHUNKS).astype(np.int32),
        "lines": numbers + 1,
        "digests": np.stack([numbers, numbers], 1).astype(np.uint64),
        "likeness": numbers.astype(np.uint64),
        "signatures": np.full((NUM_CONVERSATIONS, NUM_HASHES["group"]), 1, np.uint32),
        "role_tokens": np.zeros((NUM_CONVERSATIONS, len(ROLES)), np.int32),
    }
    columns |= {
        field.name: np.zeros(NUM_CONVERSATIONS, np.int32)
        for field in fields(Part)
        if field.name not in columns
    }
    return Part(**columns)
