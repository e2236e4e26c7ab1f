"""JSONL to packed rows on disk, start-up included: gemfit, datasets with TRL, and the bare encoder.

    python benchmarks/compare_builders.py --tokenizer FOLDER --megabytes 420 --peers FOLDER

The corpus is made of the texts of installed packages (``conversation_corpus``). `ours` reads, checks,
renders, labels, encodes, looks for near-duplicates and PII, splits, packs and writes rows with
their origin, digests and a manifest; `plain` does so without near-duplicates and PII.
`ceiling` is the same encoder, its start and its proof on the user's data included, in as many processes: it
reads and encodes, and discards the ids; `gigatoken` is the same with the fastest encoder that can be
installed, and without a proof. `trl` is ``load_dataset``, ``map(num_proc)``, ``trl.pack_dataset`` and
``save_to_disk``; it has neither labels nor checks. No part, and no cache of datasets, is there when a run
begins; compiled code and the tokenizer's cache are. Peak memory is the sum of PSS of all
processes, sampled five times per second.

TRL is not a dependency: `pip install --no-deps --target FOLDER trl`, and pass FOLDER as --peers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conversation_corpus import write_corpus

from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe

PLAIN: dict[str, Any] = {"near_duplicates": "ignore", "pii": "ignore"}

CEILING = """
import os, sys
from pathlib import Path
from gemfit.data.tokenize.gigatoken import gigatoken_encoder
from gemfit.data.tokenize.tokenizer_json import parse_tokenizer
from gemfit.data.jsonl.inputs import all_blocks, block_text
from gemfit.data.tokenize.file_tokenizer import backend_json
from gemfit.data.jsonl.batch_parser import read_block
from gemfit.data.build.setup import (
    Unchecked,
    prepare_render_context,
    prepare_tokenizer,
    freeze_heap,
)
from gemfit.schemas.pack_job import PackJob
job, workers, engine = PackJob.read(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
tokenizer, watch = prepare_tokenizer(job), None
if engine == "gigatoken":
    encoder = gigatoken_encoder(parse_tokenizer(backend_json(tokenizer)))
else:
    rendering, watch = prepare_render_context(job, tokenizer, print)
    encoder = rendering.encoder
freeze_heap()
def work(number):
    tokens = 0
    for block in all_blocks(job):
        if block.number % workers == number:
            text = block_text(block, job.files[0].path)
            messages, _ = read_block(text, 2, "conversations", Unchecked(), None)
            tokens += len(encoder.encode(messages.text, messages.ends)[0])
    os._exit(0 if tokens else 1)
children = []
for number in range(workers):
    child = os.fork()
    if not child:
        work(number)
    children.append(child)
status = max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
if watch:
    watch.finish()
    watch.close()
sys.exit(status)
"""

PEER = """
import sys
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import pack_dataset
source, tokenizer_folder, seq_len, workers, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
def encode(batch):
    texts = [
        tokenizer.bos_token + "".join(f"<|{m['role']}|>{m['content']}{tokenizer.eos_token}" for m in messages)
        for messages in batch["messages"]
    ]
    return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}
data = load_dataset("json", data_files=source, split="train")
data = data.map(encode, batched=True, num_proc=int(workers), remove_columns=data.column_names)
packed = pack_dataset(data, int(seq_len), strategy="bfd_split")
packed.save_to_disk(out, num_proc=int(workers))
print(len(packed), sum(map(len, packed["input_ids"])) if "--count" in sys.argv else 0)
"""


@dataclass(frozen=True)
class Figures:
    """What one way cost."""

    seconds: float
    megabytes_per_second: float
    cpu_seconds: float
    """Of all its processes."""
    peak_mib: float


class Bench:
    """One corpus and tokenizer in one folder."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.corpus = folder / "conversations.jsonl"
        self.conversations = write_corpus(self.corpus, arguments.megabytes)
        self.megabytes = self.corpus.stat().st_size / 1e6
        self.environment = os.environ | {
            "GEMFIT_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "HF_DATASETS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(arguments.peers or ""),
        }

    def job(self, name: str, corpus: Path | None = None, **data: Any) -> Path:
        """A job file."""
        settings = {"source": str(corpus or self.corpus), "seq_len": self.arguments.seq_len, **data}
        recipe = Recipe(
            model=ModelRecipe(id=str(self.arguments.tokenizer)), data=DataRecipe.model_validate(settings)
        )
        path = self.folder / f"{name}.json"
        path.write_text(make_pack_job(recipe).to_json())
        return path

    def pack(self, job: Path, name: str, *options: str) -> tuple[Path, Figures]:
        """Build from nothing; the folder and what it took."""
        shutil.rmtree(self.folder / "cache/parts", ignore_errors=True)
        return self.pack_on(job, name, *options)

    def pack_on(self, job: Path, name: str, *options: str) -> tuple[Path, Figures]:
        """Build on the parts that are there."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        argv = [sys.executable, "-m", "gemfit.data", str(job), "--out", str(out), *options]
        return out, self.measure(argv)

    def measure(self, argv: Sequence[str]) -> Figures:
        """Run a command to its end."""
        started, before = time.perf_counter(), child_seconds()
        process = subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        peak = 0
        while True:
            try:
                _, printed = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_pss_kib(process.pid))
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(printed.decode())
        speed, cpu = self.megabytes / seconds, child_seconds() - before
        return Figures(round(seconds, 2), round(speed, 1), round(cpu, 2), round(peak / 1024))


def child_seconds() -> float:
    """Processor time of all processes that were waited for, below and below these."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree_pss_kib(pid: int) -> int:
    """Proportional memory of a process and all below it; one that has ended counts as nothing."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return own + sum(tree_pss_kib(int(child)) for child in children)


def content(folder: Path) -> dict[str, bytes]:
    """Every byte of a pack."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_identity(bench: Bench, job: Path) -> bool:
    """Whether one worker, four workers, and four shards with a merge give the same bytes."""
    one = content(bench.pack(job, "one", "--workers", "1")[0])
    four = content(bench.pack(job, "four", "--workers", "4")[0])
    shutil.rmtree(bench.folder / "cache/parts")
    for shard in range(1, 5):
        bench.pack_on(job, "shards", "--shard", f"{shard}/4", "--workers", "1")
    merged = content(bench.pack_on(job, "shards", "--merge", "--workers", "2")[0])
    return one == four == merged


def ways(bench: Bench) -> dict[str, Callable[[], Figures]]:
    """What is measured, by name."""
    workers, seq_len = str(bench.arguments.workers), str(bench.arguments.seq_len)
    jobs = {"ours": bench.job("ours"), "plain": bench.job("plain", **PLAIN)}
    found: dict[str, Callable[[], Figures]] = {
        name: lambda name=name, job=job: bench.pack(job, name, "--workers", workers)[1]  # type: ignore[misc]
        for name, job in jobs.items()
    }
    for name in ("ceiling", "gigatoken"):
        argv = [sys.executable, "-c", CEILING, str(jobs["ours"]), workers, name]
        found[name] = lambda argv=argv: bench.measure(argv)  # type: ignore[misc]
    if bench.arguments.peers:

        def peer() -> Figures:
            shutil.rmtree(bench.folder / "hf", ignore_errors=True)
            shutil.rmtree(bench.folder / "trl", ignore_errors=True)
            inputs = (bench.corpus, bench.arguments.tokenizer, seq_len, workers, bench.folder / "trl")
            return bench.measure([sys.executable, "-c", PEER, *map(str, inputs)])

        found["trl"] = peer
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--megabytes", type=int, default=420)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the fastest one counts")
    parser.add_argument("--peers", type=Path, help="folder into which trl was installed")
    parser.add_argument("--identity", action="store_true", help="compare workers and shards instead")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if left out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        bench = Bench(arguments, Path(name))
        if arguments.identity:
            same = check_identity(bench, bench.job("ours"))
            print(f"1 worker, 4 workers, 4 shards and a merge: {'the same bytes' if same else 'DIFFERENT'}")
            sys.exit(not same)
        report(bench, arguments)


def report(bench: Bench, arguments: argparse.Namespace) -> None:
    """Measure everything, ways in turn, and print it with ratios."""
    measured = ways(bench)
    small = bench.folder / "small.jsonl"
    write_corpus(small, 1)
    bench.pack(bench.job("small", small), "warm")  # compiles, and gets to know the tokenizer
    best: dict[str, Figures] = {}
    for _ in range(arguments.rounds):
        for name, run in measured.items():
            figures = run()
            print(name, figures, file=sys.stderr, flush=True)
            if name not in best or figures.seconds < best[name].seconds:
                best[name] = figures
    manifest = PackManifest.read(bench.folder / "ours/manifest.json")
    train = manifest.splits["train"]
    facts = {
        "megabytes": round(bench.megabytes, 1),
        "conversations": bench.conversations,
        "tokens": manifest.flow["total"].tokens_read,
        "engine": manifest.engine,
        "fill": round(train.fill(manifest.seq_len), 5),
    }
    ratios = {
        "plain / ceiling": best["ceiling"].seconds / best["plain"].seconds,
        "ours / ceiling": best["ceiling"].seconds / best["ours"].seconds,
        "ours / gigatoken": best["gigatoken"].seconds / best["ours"].seconds,
    }
    if "trl" in best:
        ratios["ours / trl"] = best["trl"].seconds / best["ours"].seconds
        ratios["plain / trl"] = best["trl"].seconds / best["plain"].seconds
    if arguments.json:
        each = {name: asdict(one) for name, one in best.items()}
        print(json.dumps({**facts, "figures": each, "speed": ratios}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("| way | s | MB/s | CPU s | peak MiB |\n|---|---|---|---|---|")
    for name, one in best.items():
        figures = (one.seconds, one.megabytes_per_second, one.cpu_seconds, one.peak_mib)
        print(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times the speed")


if __name__ == "__main__":
    main()
