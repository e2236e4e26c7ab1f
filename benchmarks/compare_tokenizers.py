"""How fast contents become ids: each engine compared with the reference, on one thread of one process.

    python benchmarks/compare_tokenizers.py --data examples/conversations.jsonl --tokenizer DIR

Every engine encodes the same texts, and its ids are compared with those of the reference, which encodes
the first --reference-megabytes of them. A second pass over the same texts shows what an engine keeps: `new`
is the first pass of a new encoder, `again` the next. MB are 10^6 bytes of UTF-8, per second of processor
time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
from tokenizers import Tokenizer

from gemfit.data.tokenize import Encoder, reference_encoder
from gemfit.data.tokenize.bpe.word_cache import make_word_cache, word_cache
from gemfit.data.tokenize.gigatoken import gigatoken_encoder
from gemfit.data.tokenize.protocol import Ends, Ids
from gemfit.data.tokenize.tokenizer_json import parse_tokenizer

MESSAGES = 4000
"""Sources are cut into texts of about this many characters, as answers with code have them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One engine."""

    engine: str
    new: float
    """MB per second of processor time, first pass of a new encoder; median of the rounds."""
    again: float
    new_per_reference: float
    again_per_reference: float
    texts_that_differ: int


@dataclass(frozen=True)
class Texts:
    """Contents, joined, and where each ends."""

    text: bytes
    ends: Ends

    def first(self, megabytes: float) -> Texts:
        """Whole texts from the beginning."""
        count = max(1, int(np.searchsorted(self.ends, megabytes * 1e6, side="right")))
        return Texts(self.text[: self.ends[count - 1]], self.ends[:count])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="JSONL file, or `sources`: Python files installed here")
    parser.add_argument("--tokenizer", required=True, type=Path, help="folder with tokenizer.json")
    parser.add_argument("--megabytes", type=float, default=50, help="at most this much text")
    parser.add_argument("--reference-megabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    contents = sources() if arguments.data == "sources" else messages(Path(arguments.data))
    texts = take(contents, arguments.megabytes * 1e6)
    report(measure(texts, arguments), texts, arguments)
    return 0


def messages(path: Path) -> Iterator[bytes]:
    """The contents of all messages of a file."""
    with path.open("rb") as lines:
        for line in lines:
            for message in orjson.loads(line)["messages"]:
                yield message["content"].encode()


def sources() -> Iterator[bytes]:
    """Chunks of the Python files of the installed packages, always the same ones in the same order."""
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_text(errors="replace")
        for start in range(0, len(text), MESSAGES):
            yield text[start : start + MESSAGES].encode()


def take(contents: Iterator[bytes], limit: float) -> Texts:
    chosen, size = [], 0
    for content in contents:
        if size + len(content) > limit:
            break
        chosen.append(content)
        size += len(content)
    return Texts(b"".join(chosen), np.cumsum([len(content) for content in chosen]))


def measure(texts: Texts, arguments: argparse.Namespace) -> list[Speed]:
    """Every engine in turn, as often as there are rounds, so that a busy moment hits all of them."""
    file = (arguments.tokenizer / "tokenizer.json").read_bytes()
    parsed, reference = parse_tokenizer(file), reference_encoder(Tokenizer.from_buffer(file))
    cache = word_cache(parsed)
    makers: dict[str, Callable[[], Encoder]] = {
        "gigatoken": lambda: gigatoken_encoder(parsed),
        "word cache": lambda: make_word_cache(
            cache.merge_tables, cache.split_points, cache.char_pairs, cache.splittable_runs
        ),
    }
    head = texts.first(arguments.reference_megabytes)
    right = reference.encode(head.text, head.ends)
    compiled = makers["word cache"]()
    compiled.encode(head.text, head.ends)  # Compiled code is loaded here, not in the first round.
    base: list[float] = []
    new: dict[str, list[float]] = {name: [] for name in makers}
    again: dict[str, list[float]] = {name: [] for name in makers}
    differ = dict.fromkeys(makers, 0)
    for _ in range(arguments.rounds):
        base.append(speed(reference, head))
        for name, make in makers.items():
            encoder = make()
            new[name].append(speed(encoder, texts))
            again[name].append(speed(encoder, texts))
            differ[name] = max(differ[name], different(encoder.encode(texts.text, texts.ends), right))
    slow = statistics.median(base)
    lines = [(name, statistics.median(new[name]), statistics.median(again[name])) for name in makers]
    return [
        Speed(
            engine=name,
            new=first,
            again=second,
            new_per_reference=first / slow,
            again_per_reference=second / slow,
            texts_that_differ=differ.get(name, 0),
        )
        for name, first, second in [("tokenizers", slow, slow), *lines]
    ]


def speed(encoder: Encoder, texts: Texts) -> float:
    """MB per second of processor time."""
    before = time.process_time()
    encoder.encode(texts.text, texts.ends)
    return len(texts.text) / 1e6 / (time.process_time() - before)


def different(found: tuple[Ids, Ends], right: tuple[Ids, Ends]) -> int:
    """How many of the texts that the reference encoded have other ids."""
    stops = right[1]
    starts = np.concatenate([[0], stops[:-1]])
    mine = np.concatenate([[0], found[1]])
    return sum(
        not np.array_equal(found[0][mine[index] : mine[index + 1]], right[0][starts[index] : stops[index]])
        for index in range(len(stops))
    )


def report(speeds: list[Speed], texts: Texts, arguments: argparse.Namespace) -> None:
    """Print the speeds, as a table or as JSON."""
    about = {
        "data": Path(arguments.data).name,
        "texts": len(texts.ends),
        "megabytes": len(texts.text) / 1e6,
        "compared_texts": len(texts.first(arguments.reference_megabytes).ends),
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
    }
    if arguments.json:
        print(json.dumps(about | {"engines": [asdict(line) for line in speeds]}, indent=2))
        return
    print(
        ", ".join(f"{name}: {value:,.6g}" if name != "data" else str(value) for name, value in about.items())
    )
    print(f"{'engine':<26}{'new':>8}{'again':>8}{'new/reference':>15}{'again/reference':>17}{'differ':>8}")
    for line in speeds:
        ratios = f"{line.new_per_reference:>15.1f}{line.again_per_reference:>17.1f}"
        print(f"{line.engine:<26}{line.new:>8.1f}{line.again:>8.1f}{ratios}{line.texts_that_differ:>8}")


if __name__ == "__main__":
    sys.exit(main())
