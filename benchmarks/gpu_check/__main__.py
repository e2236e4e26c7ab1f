"""Check gemfit on one GPU in at most eight minutes, without a network; or every part tiny on a CPU.

    python benchmarks/gpu_check [--dry] [--only PART,…] [--wheels FOLDER] [--out FILE] [--page docs/gpu.md]

Each part is a process of its own with a time limit and gives one JSON line; a part that fails does not
end the check. A Markdown table follows. ``--wheels`` first installs what pack_wheels.py has packed, and this
checkout, into a folder of the check's own. Exit status 1 where a part has failed. Imports nothing but the
standard library: what is to be installed may be missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from catalog import EVERY, PARTS
from install_wheels import install
from results_table import page_with, table
from run_parts import run_all

ROOT = Path(__file__).resolve().parents[2]
TOTAL_SECONDS = 480.0
DRY_SECONDS = 1800.0
"""It takes some three minutes on two cores."""


def main() -> int:
    """Run the parts, print their lines and the table."""
    options = _options()
    names = [name for name in options.only.split(",") if name] or [part.name for part in PARTS]
    if unknown := set(names) - {part.name for part in PARTS}:
        sys.exit(f"--only: {', '.join(sorted(unknown))}; parts: {', '.join(part.name for part in PARTS)}")
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=options.scratch) as scratch:
        env = _environment(Path(scratch), dry=options.dry)
        if options.wheels is not None:
            site = install(options.wheels, ROOT, Path(scratch) / "site")
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), env.get("PYTHONPATH"))))
        if not options.dry and (problem := _gpu_problem(env)):
            sys.exit(f"{problem}; DRY=1 (--dry) executes every part on a CPU")
        lines = []
        for line in run_all(
            [EVERY["prepare"], *(EVERY[name] for name in EVERY if name in names)],
            Path(scratch),
            env,
            dry=options.dry,
            total_seconds=options.seconds or (DRY_SECONDS if options.dry else TOTAL_SECONDS),
        ):
            print(json.dumps(line), flush=True)
            lines.append(line)
    _write(options, lines)
    return 0 if all(line["ok"] for line in lines) else 1


def _write(options: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    found = table(lines)
    print(found)
    if options.out is not None:
        options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if options.page is not None:
        options.page.write_text(page_with(options.page.read_text(), found))


def _environment(scratch: Path, *, dry: bool) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ours = {"GEMFIT_CACHE": str(scratch / "cache"), "PYTHONUNBUFFERED": "1"}
    # Two processes with a thread per core each wait for one another.
    small = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} if dry else {}
    return {**os.environ, **offline, **ours, **small}


def _gpu_problem(env: dict[str, str]) -> str | None:
    """Why there is nothing to check here; ``None`` if torch sees a GPU."""
    ask = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"torch cannot be imported: {done.stderr.strip().splitlines()[-1]}"
    return None if done.stdout.strip() == "True" else "torch sees no GPU"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="every part with a tiny model, on the CPU")
    parser.add_argument("--only", default="", help="parts, such as engines,attention")
    parser.add_argument("--seconds", type=float, help="limit of the whole check; default: 480")
    parser.add_argument("--wheels", type=Path, help="install these first (pack_wheels.py)")
    parser.add_argument(
        "--scratch", type=Path, help="folder for models and runs, some 30 GB; default: TMPDIR"
    )
    parser.add_argument("--out", type=Path, help="write the JSON lines here")
    parser.add_argument("--page", type=Path, help="replace the results of this page")
    options = parser.parse_args()
    if options.page is not None and options.dry:
        parser.error("--page takes results of a GPU, and --dry has none")
    return options


if __name__ == "__main__":
    sys.exit(main())
