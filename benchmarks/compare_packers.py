"""Packers compared on the same lengths, in one process: rows, fill and time.

    pip install --no-deps --target PEERS trl llamafactory
    python benchmarks/compare_packers.py --peers PEERS --lengths 100000 1000000

(a) lognormal lengths of mean 300, the tail clipped at 4,096; (b) conversations of some 20,000 tokens, one
for 200 lengths asked for; (c) bimodal: seven in ten short (mean an eighth of a row), the others nearly a
row. What is longer than a row is cut into rows and a rest first, the same for all packers. The peers run
as they are shipped: in blocks of 1,000. TRL moves tokens as well as choosing rows; its tokens here take
one byte, which is in its favour. A peer that is not installed is left out and named. All times
are CPU time of the process, so that other work on the machine counts less.

Then (b) with its turns: what `overlong: split` and `cut` make of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemfit.data.document import TRAINED, Document, Turn
from gemfit.data.packing.best_fit import fewest_rows, pack
from gemfit.data.packing.chunk_packing import Fragments, pack_chunks, pack_longest_chunks
from gemfit.data.packing.overlong import fit_document

Lengths = NDArray[np.int32]
Packer = Callable[[Lengths, int], int]
"""Lengths and the length of a row -> number of rows; what it prepares first is not timed."""

BLOCK = 1000
TOKENS_FOR_TRL = 400_000_000
"""TRL holds several times the tokens in memory: 8 GB are not enough for more."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one packer makes of one set of lengths."""

    lengths: str
    count: int
    seq_len: int
    packer: str
    rows: int
    excess_rows: int
    """Above the bound: all tokens divided by the length of a row."""
    fill: float
    seconds: float
    """Best of three for packers that take less than a second, else of one."""
    times_ours: float


@dataclass(frozen=True, kw_only=True)
class Long:
    """What one way of cutting makes of (b)."""

    overlong: str
    seq_len: int
    rows: int
    fill: float
    """Real tokens, repeated context included, in all places."""
    net: float
    """Each token of a conversation counted once, in all places."""
    mid_message_cuts: int
    cut_seconds: float
    pack_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100_000], help="how many, of (a) and (c)")
    parser.add_argument("--seq-len", type=int, nargs="+", default=[1024, 2048, 8192])
    parser.add_argument("--peers", type=Path, help="folder of `pip install --target` with trl, llamafactory")
    parser.add_argument("--conversations", type=int, default=500, help="of (b) with its turns")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers.resolve()))
    packers = {"gemfit": ours, **dict(peers())}
    outcomes = [
        outcome
        for count in arguments.lengths
        for seq_len in arguments.seq_len
        for name, lengths in distributions(count, seq_len).items()
        for outcome in race(packers, name, lengths, seq_len)
    ]
    documents = list(conversations(arguments.conversations))
    for how in HOW:  # compiles what is timed below
        cut(documents[:2], how, arguments.seq_len[0])
    long = [cut(documents, how, seq_len) for seq_len in arguments.seq_len for how in HOW]
    report(outcomes, long, as_json=arguments.json)
    return 0


def distributions(count: int, seq_len: int) -> dict[str, Lengths]:
    """The three kinds of lengths, cut to rows, in an order that says nothing."""
    rng = np.random.default_rng(1)
    near = np.clip(rng.normal(0.9 * seq_len, 0.05 * seq_len, count), 1, seq_len)
    short = np.clip(rng.lognormal(np.log(seq_len / 8) - 0.32, 0.8, count), 1, seq_len)
    kinds = {
        "a": np.clip(rng.lognormal(np.log(300) - 0.5, 1.0, count), 1, 4096),
        "b": rng.normal(20_000, 3_000, max(1, count // 200)),
        "c": np.where(rng.random(count) < 0.3, near, short),
    }
    return {name: rng.permutation(cut_to_rows(lengths, seq_len)) for name, lengths in kinds.items()}


def cut_to_rows(lengths: NDArray[np.float64], seq_len: int) -> Lengths:
    whole = lengths.astype(np.int32)
    full = np.full(int((whole // seq_len).sum()), seq_len, np.int32)
    rest = whole % seq_len
    return np.concatenate([full, rest[rest > 0]]).astype(np.int32)


def race(packers: dict[str, Packer], name: str, lengths: Lengths, seq_len: int) -> Iterator[Outcome]:
    """All packers on one set of lengths, ours first."""
    bound, tokens = fewest_rows(lengths, seq_len), int(lengths.sum(dtype=np.int64))
    own = 0.0
    for packer, run in sorted(packers.items(), key=lambda item: item[0] != "gemfit"):
        if packer.startswith("TRL") and tokens > TOKENS_FOR_TRL:
            print(f"{packer}: {tokens:,} tokens would take more than 8 GB; left out", file=sys.stderr)
            continue
        rows, seconds = timed(run, lengths, seq_len)
        own = own or seconds
        yield Outcome(
            lengths=name,
            count=len(lengths),
            seq_len=seq_len,
            packer=packer,
            rows=rows,
            excess_rows=rows - bound,
            fill=tokens / (rows * seq_len),
            seconds=seconds,
            times_ours=seconds / own,
        )


def timed(run: Packer, lengths: Lengths, seq_len: int) -> tuple[int, float]:
    """Rows and seconds; compiled code is compiled before."""
    run(lengths[:BLOCK], seq_len)
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 1:
        start = time.process_time()
        rows = run(lengths, seq_len)
        # What a peer prepares (a dataset out of lengths) is no part of its packing.
        seconds.append(time.process_time() - start - PREPARED.pop("seconds", 0.0))
    return rows, min(seconds)


PREPARED: dict[str, float] = {}


def ours(lengths: Lengths, seq_len: int) -> int:
    return int(pack(lengths, seq_len).max()) + 1


def peers() -> Iterator[tuple[str, Packer]]:
    """The other packers that are installed."""
    for name, make in (("TRL bfd_split", trl), ("LLaMA-Factory knapsack", llama_factory)):
        try:
            yield name, make()
        except ImportError as error:
            print(f"{name}: not installed ({error}); see the head of this script", file=sys.stderr)


def trl() -> Packer:
    import datasets  # noqa: PLC0415 -- a peer, and what it takes, only where it is asked for
    import pyarrow as pa  # noqa: PLC0415
    from trl.data_utils import pack_dataset  # noqa: PLC0415

    datasets.disable_progress_bars()

    def run(lengths: Lengths, seq_len: int) -> int:
        start = time.process_time()
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        tokens = pa.LargeListArray.from_arrays(ends, pa.array(np.zeros(lengths.sum(dtype=np.int64), np.int8)))
        chunks = [tokens.slice(at, BLOCK).cast(pa.list_(pa.int8())) for at in range(0, len(lengths), BLOCK)]
        dataset = datasets.Dataset(pa.table({"input_ids": pa.chunked_array(chunks)}))
        PREPARED["seconds"] = time.process_time() - start
        return len(pack_dataset(dataset, seq_len, strategy="bfd_split"))

    return run


def llama_factory() -> Packer:
    package = find_spec("llamafactory")
    if package is None or package.submodule_search_locations is None:
        raise ImportError("No module named 'llamafactory'")
    # The packer's own file: importing the package takes packages for sound and pictures.
    file = Path(package.submodule_search_locations[0]) / "data" / "processor" / "processor_utils.py"
    spec = spec_from_file_location("processor_utils", file)
    assert spec is not None, "a path that ends in .py"
    assert spec.loader is not None, "a path that ends in .py"
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    greedy_knapsack: Callable[[list[int], int], list[list[int]]] = module.greedy_knapsack

    def run(lengths: Lengths, seq_len: int) -> int:
        start = time.process_time()
        blocks = [lengths[at : at + BLOCK].tolist() for at in range(0, len(lengths), BLOCK)]
        PREPARED["seconds"] = time.process_time() - start
        return sum(len(greedy_knapsack(block, seq_len)) for block in blocks)

    return run


HOW = ("split, longest chunks", "split", "cut")


def conversations(count: int) -> Iterator[Document]:
    """(b): a system message of 45 tokens, then exchanges of some 235, until there are some 20,000."""
    rng = np.random.default_rng(0)
    begin, header = np.array([2], np.uint32), np.array([5, 6, 7, 8], np.uint32)
    for total in rng.normal(20_000, 3_000, count):
        system_prefix = np.concatenate([begin, rng.integers(10, 1000, 45).astype(np.uint32)])
        words, turns, length = [system_prefix], [], len(system_prefix)
        while length < total:
            for role, mean in (("user", 45), ("assistant", 180)):
                size = int(np.clip(rng.lognormal(np.log(mean) - 0.245, 0.7), 3, 4000))
                turns.append(Turn(role, length, len(header)))
                words.append(rng.integers(1000, 200_000, len(header) + size + 1).astype(np.uint32))
                length += len(words[-1])
        flat = np.concatenate(words)
        flat[1:] |= TRAINED
        yield Document(flat, tuple(turns), begin, system_prefix, flat[:0], user_header=header, user_end=begin)


def cut(documents: list[Document], how: str, seq_len: int) -> Long:
    """Rows of long conversations that keep a question with its answer."""
    overlong = how.split(",")[0]
    start = time.process_time()
    parts = [one for document in documents for one in fit_document(document, overlong, seq_len).fragments]
    cut_seconds = time.process_time() - start
    fragments = Fragments(
        np.array([len(fragment.words) for fragment in parts], np.int32),
        np.array([fragment.repeated for fragment in parts], np.int32),
        np.array([fragment.continues for fragment in parts], np.bool_),
    )
    start = time.process_time()
    chosen = how == overlong
    if chosen:
        packed = pack_chunks(fragments, seq_len, tight=how == "cut")
    else:
        packed = pack_longest_chunks(fragments, seq_len)
    pack_seconds = time.process_time() - start
    rows = int(packed.row[-1]) + 1
    mid_message = np.array([fragment.mid_message for fragment in parts])
    return Long(
        overlong=how,
        seq_len=seq_len,
        rows=rows,
        fill=int(packed.lengths.sum()) / (rows * seq_len),
        net=sum(len(document.words) for document in documents) / (rows * seq_len),
        mid_message_cuts=int(mid_message[packed.first].sum()),
        cut_seconds=cut_seconds,
        pack_seconds=pack_seconds,
    )


def report(outcomes: list[Outcome], long: list[Long], *, as_json: bool) -> None:
    """Print everything, as tables or as JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if as_json:
        tables = {"packers": [asdict(o) for o in outcomes], "long": [asdict(one) for one in long]}
        print(json.dumps(tables | {"peak_gib": peak}, indent=2))
        return
    print("| lengths | row | packer | rows | above the bound | fill % | ms | M/s | time relative to ours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for o in outcomes:
        speed = o.count / o.seconds / 1e6
        print(
            f"| ({o.lengths}) {o.count:,} | {o.seq_len:,} | {o.packer} | {o.rows:,} | {o.excess_rows:,} | "
            f"{o.fill:.3%} | {1000 * o.seconds:,.1f} | {speed:.3g} | {o.times_ours:,.2f} |"
        )
    print("\n| (b) with turns | row | rows | fill % | net % | mid-message cuts | cutting s | packing s |")
    print("|---|---|---|---|---|---|---|---|")
    for one in long:
        print(
            f"| {one.overlong} | {one.seq_len:,} | {one.rows:,} | {one.fill:.2%} | {one.net:.2%} | "
            f"{one.mid_message_cuts:,} | {one.cut_seconds:.2f} | {one.pack_seconds:.2f} |"
        )
    print(f"\npeak memory of the process: {peak:.1f} GiB")


if __name__ == "__main__":
    sys.exit(main())
