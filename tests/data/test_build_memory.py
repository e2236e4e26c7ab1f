"""What the parent keeps of each conversation, from the first block to the table of all conversations."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from gemfit.data.build.block_cache import BlockCache, BlockNotes
from gemfit.data.build.conversation_table import Collector, ConversationTable
from gemfit.data.build.malloc import trim_heap
from gemfit.data.build.map_blocks import MappedBlock
from gemfit.data.build.row_plan import plan_split
from gemfit.data.build.token_accounting import (
    chunk_sums,
    losses,
    role_tokens,
    token_flow,
    write_conversations,
)
from gemfit.data.filter.select_conversations import select_conversations
from gemfit.data.filter.selection import Selection, SelectionInput
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.jsonl.message_batch import TokenizedBlock
from gemfit.schemas.recipe_data import DataRecipe

CONVERSATIONS, BLOCKS = 4_000, 50
SEQ_LEN = 2048
HELD_BYTES, MOST_BYTES = 60, 200
"""Of a conversation: when all is decided, and on the way. A third of them are of two fragments."""
DATA = DataRecipe(source="conversations.jsonl", seq_len=SEQ_LEN, near_duplicates="group")


def block(seed: int) -> TokenizedBlock:
    """What a block without any text would become."""
    rng = np.random.default_rng(seed)
    fragments = 1 + (np.arange(CONVERSATIONS, dtype=np.int32) % 3 == 0)
    conversation = np.repeat(np.arange(CONVERSATIONS, dtype=np.int32), fragments)
    continues = np.append(False, conversation[1:] == conversation[:-1])
    lengths = rng.integers(50, 1500, len(conversation), dtype=np.int32)
    context = np.where(continues, 20, 0).astype(np.int32)
    nothing = np.zeros(CONVERSATIONS, np.int32)
    return TokenizedBlock(
        words=np.empty(0, np.uint32),
        lengths=lengths,
        context=context,
        starts=np.zeros_like(lengths),
        continues=continues,
        mid_message=np.zeros_like(continues),
        conversation=conversation,
        lines=np.arange(1, CONVERSATIONS + 1),
        digests=rng.integers(0, 2**64, (CONVERSATIONS, 2), np.uint64),
        normalized_hashes=rng.integers(0, 2**64, CONVERSATIONS, np.uint64),
        signatures=rng.integers(0, 2**32, (CONVERSATIONS, 64), np.uint32),
        tokens=np.bincount(conversation, lengths - context).astype(np.int32),
        trained=nothing,
        role_tokens=np.zeros((CONVERSATIONS, len(ROLES)), np.int32),
        truncated=nothing,
        dropped=nothing,
        untrained=nothing,
    )


def decide(folder: Path, blocks: range) -> tuple[ConversationTable, Selection, object]:
    """All that the parent does between the blocks and the rows, and after the rows."""
    store = BlockCache(folder, "blocks")
    collector = Collector(store, DATA)
    for number in blocks:
        collector.add(MappedBlock(number=number, input=0, key=str(number), lines=CONVERSATIONS, state="made"))
    conversations, notes = collector.finish()
    source = np.zeros(len(conversations), np.int16)
    candidates = SelectionInput(
        digests=conversations.digests,
        normalized_hashes=conversations.normalized_hashes,
        signatures=conversations.signatures,
        source=source,
        disposition=np.zeros(len(conversations), np.int8),
    )
    selection = select_conversations(candidates, DATA, seed=0)
    plans = [plan_split(conversations, selection, split, SEQ_LEN, tight=False) for split in (0, 1)]
    sums = [chunk_sums(conversations, selection, source, 1, plan) for plan in plans]
    flow = token_flow(conversations, selection, source, ["conversations"], sums)
    counted = losses(conversations, selection, notes, flow["total"], sums, SEQ_LEN, also_in_validation=0)
    assert counted.lines_read == len(conversations)
    assert role_tokens(conversations, selection)["control"] == flow["total"].tokens_read
    write_conversations(folder / "conversations.arrow", conversations, selection, source)
    return conversations, selection, plans


def child(folder: Path, connection: Connection) -> None:
    decide(folder, range(2))  # what is compiled, and what is imported late, is not counted
    trim_heap()
    connection.send("ready")
    connection.recv()
    selected = decide(folder, range(BLOCKS))
    trim_heap()
    connection.send(len(selected[0]))
    connection.recv()


def anonymous(pid: int) -> int:
    """Bytes of memory of a process that belong to no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_the_parent_keeps_a_few_bytes_of_each_conversation(tmp_path: Path) -> None:
    store = BlockCache(tmp_path, "blocks")
    notes = BlockNotes(lines=CONVERSATIONS, blank=0, rejected=(), pii={}, engine="none")
    for number in range(BLOCKS):
        store.write(str(number), block(number), notes)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=child, args=(tmp_path, there))
    process.start()
    there.close()
    assert here.recv() == "ready"
    before = most = anonymous(process.pid or 0)
    here.send("go")
    while not here.poll(0.002):
        most = max(most, anonymous(process.pid or 0))
    count = here.recv()
    after = anonymous(process.pid or 0)
    here.send("end")
    process.join()
    here.close()
    assert count == CONVERSATIONS * BLOCKS
    assert (after - before) / count < HELD_BYTES
    assert (most - before) / count < MOST_BYTES
