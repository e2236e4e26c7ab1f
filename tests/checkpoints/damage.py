"""Each file of a real checkpoint truncated, bit-flipped and removed: is it passed over, and named.

    python tests/checkpoints/damage.py [--strategy fsdp2] [--strategy zero3] [--resume] [--json]

Two ranks save after steps 2 and 4. Each file of the newer checkpoint is damaged in three ways, one at a time;
the older one must then be chosen, and the damaged folder and file be named. With `--resume` each case
is a start of two ranks that resume and take a step; without, the choice alone is made, in this process.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked_ranks import assert_one_thread, start
from gemfit.checkpoint import newest_valid
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from tiny_runs import make_plan, sample, steps_of

OLDER, NEWER = 2, 4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "removed": Path.unlink,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One damage to one file."""

    strategy: str
    file: str
    damage: str
    chosen: int | None
    """The step of the checkpoint that was taken instead."""
    named: bool
    """Whether the log names the damaged folder, and the file or the manifest that no longer fits."""

    @property
    def good(self) -> bool:
        return self.chosen == OLDER and self.named


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


def choose(run: RunDir) -> tuple[int | None, str]:
    """The step that would be resumed, and what is logged; in this process."""
    lines, logger = Lines(), logging.getLogger("gemfit")
    logger.addHandler(lines)
    try:
        found = newest_valid(run)
    finally:
        logger.removeHandler(lines)
    return (found[1].step if found else None), lines.text


def resume(run: RunDir) -> tuple[int | None, str]:
    """The same by two ranks that take one step."""
    done = len(steps_of(run))
    attempt = start(run, stop_at=OLDER + 1)
    code = attempt.wait()
    taken = steps_of(run)[done:]
    if code is not ExitCode.STOPPED or not taken:
        return None, attempt.log()
    return taken[0].step - 1, attempt.log()


def cases(
    root: Path, plan: Plan, strategy: str, look: Callable[[RunDir], tuple[int | None, str]]
) -> list[Case]:
    """Every damage to every file of a checkpoint that ``plan`` has saved."""
    whole = RunDir.create(root / strategy, plan)
    if (attempt := start(whole, stop_at=NEWER)).wait() is not ExitCode.STOPPED:
        sys.exit(attempt.log()[-4000:])
    names = sorted(path.name for path in whole.checkpoint(NEWER).iterdir())
    shards = [name for name in names if name.endswith(".distcp")]
    if len(shards) < plan.topology.world_size:
        sys.exit(f"{strategy}: not every rank has written: {names}")
    found = []
    for name in names:
        for damage, damaging in DAMAGES.items():
            run = RunDir(root / "damaged")
            shutil.copytree(whole.root, run.root)
            damaging(run.checkpoint(NEWER) / name)
            chosen, log = look(run)
            reported = [line for line in log.splitlines() if run.checkpoint(NEWER).name in line]
            # The digest of the manifest is reported by the name of the manifest.
            reported_as = "manifest." if name.startswith("manifest.") else name
            named = any(reported_as in line for line in reported)
            found.append(Case(strategy, name, damage, chosen, named))
            shutil.rmtree(run.root)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--strategy", action="append", help="fsdp2 and zero3 if none is given")
    parser.add_argument("--resume", action="store_true", help="let two ranks resume in each case")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = sample(root)
        for strategy in arguments.strategy or ["fsdp2", "zero3"]:
            settings: dict[str, Any] = {
                "length__max_steps": 100,
                "checkpoint__every_steps": 2,
                "checkpoint__keep": 2,
            }
            plan = make_plan(data, strategy, ranks=2, **settings)
            assert_one_thread()
            found += cases(root, plan, strategy, resume if arguments.resume else choose)
    if arguments.json:
        print(json.dumps([asdict(case) for case in found]))
    else:
        for case in found:
            print(
                f"{case.strategy:<8}{case.file:<26}{case.damage:<14}resumed {case.chosen}, named {case.named}"
            )
        print(f"{sum(case.good for case in found)} of {len(found)} passed over and named")
    return 0 if all(case.good for case in found) else 1


if __name__ == "__main__":
    sys.exit(main())
