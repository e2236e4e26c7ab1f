"""A Slurm that fits into a folder: commands that note how they were called, and a queue in a file.

Put in front on PATH by the tests of the launcher as ``sbatch``, ``squeue``, ``scancel`` and ``scontrol``.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path


def main(command: str, arguments: list[str]) -> int:
    folder = Path(os.environ["FAKE_SLURM"])
    with (folder / "calls.jsonl").open("a") as stream:
        call = {"command": command, "arguments": arguments, "environment": dict(os.environ)}
        stream.write(json.dumps(call) + "\n")
    if (banner := folder / "banner").is_file():
        sys.stdout.write(banner.read_text())
        sys.stdout.flush()
    refusal = folder / f"{command}.refuses"
    if refusal.is_file():
        sys.stderr.write(refusal.read_text())
        return 1
    if (folder / f"{command}.hangs").is_file():
        sys.stderr.write(f"{command}: error: sleeping and retrying\n")
        sys.stderr.flush()
        time.sleep(30)
    return COMMANDS[command](folder, arguments)


def sbatch(folder: Path, arguments: list[str]) -> int:
    jobs = read_queue(folder)
    if (refused := folder / "sbatch.refuses_after").is_file() and len(jobs) >= int(refused.read_text()):
        sys.stderr.write("sbatch: error: Batch job submission failed: Job violates accounting policy\n")
        return 1
    number = str(100 + len(jobs))
    name = re.search(r'--job-name="(.*)"', Path(arguments[-1]).read_text())
    assert name is not None
    write_queue(folder, jobs | {number: {"state": "PENDING", "reason": "Priority", "name": name[1]}})
    answer = folder / "sbatch.answers"
    sys.stdout.write(answer.read_text() if answer.is_file() else f"{number};fake\n")
    return 0


def squeue(folder: Path, arguments: list[str]) -> int:
    (wanted,) = [a.removeprefix("--jobs=").split(",") for a in arguments if a.startswith("--jobs=")]
    found = {number: job for number, job in read_queue(folder).items() if number in wanted}
    if len(wanted) == 1 and not found:
        sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
        return 1
    for number, job in found.items():
        start = job.get("start", "N/A")
        sys.stdout.write(f"{number}|{job['state']}|{start}|{job['reason']}|{job['name']}\n")
    return 0


def scancel(folder: Path, arguments: list[str]) -> int:
    jobs = read_queue(folder)
    jobs[arguments[-1]] |= {"state": "CANCELLED", "reason": "None"}
    write_queue(folder, jobs)
    return 0


def scontrol(folder: Path, arguments: list[str]) -> int:
    path = folder / "partitions"
    unlimited = "PartitionName=low Default=YES DefaultTime=NONE MaxTime=UNLIMITED State=UP\n"
    sys.stdout.write(path.read_text() if path.is_file() else unlimited)
    return 0


def read_queue(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "queue.json"
    queue: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.is_file() else {}
    return queue


def write_queue(folder: Path, jobs: dict[str, dict[str, str]]) -> None:
    (folder / "queue.json").write_text(json.dumps(jobs))


COMMANDS = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel, "scontrol": scontrol}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
