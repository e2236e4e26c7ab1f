"""A corpus of varied conversations, made of the texts of installed packages: the same bytes each time.

Sources and documents are cut at blank lines into messages of very different lengths; an exchange follows
the text as it stands. No two conversations share a passage, so nothing is easier than in real data.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".py", ".pyi", ".md", ".rst", ".txt", ".h", ".html", ".js")
SYSTEM = (
    "You are a careful engineer. Answer with code where code helps.",
    "You explain software to people who are new to it.",
    "Reply in as few words as the matter allows.",
    "You review changes. Say what is wrong, and how to fix it.",
)


def write_corpus(path: Path, megabytes: int) -> int:
    """Write JSON lines of at least so many MB; the number of conversations. Raises where texts run out."""
    size = count = 0
    with path.open("wb") as file:
        for messages in conversations():
            size += file.write(json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n")
            count += 1
            if size >= megabytes * 1_000_000:
                return count
    raise SystemExit(f"this machine has texts for {size / 1e6:.0f} MB only; ask for fewer --megabytes")


def conversations() -> Iterator[list[dict[str, str]]]:
    """Messages of one conversation after another."""
    rng = random.Random(42)
    passages = _passages(rng)
    while True:
        messages = [{"role": "system", "content": rng.choice(SYSTEM)}] if rng.random() < 0.5 else []
        for _ in range(min(40, int(rng.lognormvariate(0.3, 0.9)) + 1)):
            for role in ("user", "assistant"):
                passage = next(passages, None)
                if passage is None:
                    return
                messages.append({"role": role, "content": passage})
        yield messages


def _passages(rng: random.Random) -> Iterator[str]:
    seen = set[bytes]()
    for path in _files():
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if digest in seen or "\0" in text:
            continue
        seen.add(digest)
        paragraphs = iter(text.split("\n\n"))
        held, wanted = "", 0.0
        for paragraph in paragraphs:
            held = f"{held}\n\n{paragraph}" if held else paragraph
            wanted = wanted or rng.lognormvariate(5.6, 0.9)
            if len(held) >= wanted:
                yield held[:20_000]
                held, wanted = "", 0.0


def _files() -> list[Path]:
    """Texts of the packages of this interpreter and of its library, in an order that mixes them."""
    roots = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    found = (path for root in sorted(roots) for path in sorted(root.rglob("*")) if path.suffix in SUFFIXES)
    return sorted(found, key=lambda path: hashlib.blake2b(str(path).encode(), digest_size=8).digest())


if __name__ == "__main__":
    print(write_corpus(Path(sys.argv[1]), int(sys.argv[2])), "conversations")
