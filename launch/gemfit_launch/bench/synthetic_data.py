"""Synthetic conversations of made-up words for benchmarks; the same bytes each time."""

from __future__ import annotations

import json
import random
from pathlib import Path

BYTES_PER_TOKEN = 4
LARGEST_BYTES = 8_000_000
"""Upper bound: more would only take longer to pack, and steps may repeat an epoch."""
SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za")
WORDS = 3000


def write_conversations(path: Path, *, seq_len: int, rows: int) -> int:
    """Write conversations for about ``rows`` rows, most of them shorter than a row; their number."""
    rng = random.Random(42)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(WORDS)]
    wanted, size, count = min(rows * seq_len * BYTES_PER_TOKEN, LARGEST_BYTES), 0, 0
    with path.open("w") as file:
        while size < wanted or count < 40:
            length = min(rng.lognormvariate(-1.2, 0.8), 3.0) * seq_len * BYTES_PER_TOKEN
            size += file.write(json.dumps({"messages": _messages(rng, words, int(length))}) + "\n")
            count += 1
    return count


def _messages(rng: random.Random, words: list[str], length: int) -> list[dict[str, str]]:
    turns = max(1, min(6, length // 400))
    each = max(2, length // (turns * 2 * 6))
    return [
        {"role": role, "content": " ".join(rng.choices(words, k=each))}
        for _ in range(turns)
        for role in ("user", "assistant")
    ]
