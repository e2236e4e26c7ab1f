"""The first pack on a fresh installation against TRL's script, and our second pack.

    pip install --no-deps --target PEERS trl
    python benchmarks/cold_start.py --tokenizer FOLDER --peers PEERS [--data FILE] [--json]

Each starts as a newcomer's first command does: `gemfit pack` with an empty ``$GEMFIT_CACHE``, which compiles
the kernels that it needs, and TRL's script (load, tokenise, ``pack_dataset``, save) with empty caches of
datasets. The second pack has rows of another length, so that nothing but compiled code is used again.
FOLDER holds a tokenizer; Gemma's has 262,144 items.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare_builders import PEER

ROOT = Path(__file__).parents[1]
SEQ_LEN = 1024


def timed(argv: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes; its errors end the benchmark."""
    start = time.monotonic()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv}: {done.stderr[-4000:]}")
    return time.monotonic() - start


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds of each, and how many functions were compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    ours = environment | {"GEMFIT_CACHE": str(folder / "cache")}
    recipe = [
        "gemma3/1b-reference",
        "--data",
        str(arguments.data),
        "--set",
        f"model.id={arguments.tokenizer}",
    ]
    pack = [sys.executable, "-m", "gemfit_launch.cli", "pack", *recipe, "--set"]
    first = timed([*pack, f"data.seq_len={SEQ_LEN}"], ours)
    compiled = len(list((folder / "cache" / "numba").rglob("*.nbi")))
    peers = environment | {"PYTHONPATH": str(arguments.peers), "HF_HOME": str(folder / "hf")}
    inputs = [arguments.data, arguments.tokenizer, SEQ_LEN, os.cpu_count(), folder / "trl"]
    trl = timed([sys.executable, "-c", PEER, *map(str, inputs)], peers)
    second = timed([*pack, f"data.seq_len={SEQ_LEN + 1}"], ours)
    again = len(list((folder / "cache" / "numba").rglob("*.nbi"))) - compiled
    return {
        "first": first,
        "trl": trl,
        "first_over_trl": first / trl,
        "second": second,
        "second_over_first": second / first,
        "compiled_functions": compiled,
        "compiled_by_second": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--peers", type=Path, required=True, help="folder into which trl was installed")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "conversations.jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    arguments.tokenizer = arguments.tokenizer.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print("| first pack, s | TRL's script, s | ratio | second pack, s | of the first | compiled functions |")
    print("|---|---|---|---|---|---|")
    first, trl, second = (f"{found[name]:.1f}" for name in ("first", "trl", "second"))
    ratios = f"{found['first_over_trl']:.2f}", f"{found['second_over_first']:.2f}"
    print(f"| {first} | {trl} | {ratios[0]} | {second} | {ratios[1]} | {found['compiled_functions']:.0f} |")


if __name__ == "__main__":
    main()
