"""Two builders of one pack at once, again and again: both have to succeed, with equal bytes.

    python benchmarks/data_races.py [--rounds 20] [--seed 0] [--json]

Four ways: two processes of one host; two PID namespaces, where the builders have equal process ids, as in
two containers on one file system (needs root and `unshare`); two after a third was killed in mid-build, at
times that the seed decides; two after a third was killed just before it renamed its finished folder. After
each round the pack is compared with that of a build alone, and the folder of packs has to hold nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gemfit.core.file_digest import file_xxh3
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel

DATA = Path(__file__).parents[1] / "examples" / "conversations.jsonl"
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
KILLED_AFTER = (0.2, 0.9)
"""Of the time that a build alone takes."""
KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from gemfit.data.__main__ import main
rename = Path.rename
def killed(path, target):
    if ".partial-" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = killed
main(sys.argv[1:])
"""


class Race:
    """A job, the folders of its rounds, and the times of kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.seconds = 0.0
        """Of a build alone."""
        self.job = folder / "job.json"
        data = DataRecipe(source=str(DATA), seq_len=256)
        recipe = Recipe(model=ModelRecipe(scratch=ScratchModel(vocab_size=300)), data=data)
        self.job.write_text(make_pack_job(recipe).to_json())

    def start(
        self, out: Path, *, prefix: tuple[str, ...] = (), code: str | None = None
    ) -> subprocess.Popen[str]:
        program = ["-c", code] if code else ["-m", "gemfit.data"]
        argv = [*prefix, sys.executable, *program, str(self.job), "--out", str(out), "--workers", "1"]
        environment = os.environ | {"GEMFIT_CACHE": str(out.parent.parent / "cache")}
        return subprocess.Popen(
            argv, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )


def content(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_xxh3(path) for path in files}


def killed_in_build(race: Race, out: Path) -> None:
    """A build that is killed, all of its processes, in the middle."""
    build = race.start(out)
    time.sleep(race.seconds * race.random.uniform(*KILLED_AFTER))
    os.killpg(build.pid, signal.SIGKILL)
    build.communicate()


def killed_at_rename(race: Race, out: Path) -> None:
    """A build that is killed when its folder is whole and still has its temporary name."""
    race.start(out, code=KILLED_AT_RENAME).communicate()


WAYS: dict[str, tuple[tuple[str, ...], Callable[[Race, Path], None] | None]] = {
    "same host": ((), None),
    "equal process ids": (NAMESPACE, None),
    "after a kill in mid-build": ((), killed_in_build),
    "after a kill at the rename": ((), killed_at_rename),
}


def failures(race: Race, way: str, rounds: int, wanted: dict[str, str]) -> Iterator[str]:
    """What went wrong in each round that did."""
    prefix, before = WAYS[way]
    for number in range(rounds):
        out = race.folder / f"{way} {number}" / "packs" / "pack"
        if before is not None:
            before(race, out)
        builds = [race.start(out, prefix=prefix) for _ in range(2)]
        said = [build.communicate()[1] for build in builds]
        if any(build.returncode for build in builds):
            yield f"{way}, round {number}: {said}"
        elif content(out) != wanted or len(list(out.parent.iterdir())) > 1:
            yield f"{way}, round {number}: another pack, or something left: {list(out.parent.iterdir())}"
        shutil.rmtree(out.parent.parent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times of kills in mid-build")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        race = Race(Path(name), arguments.seed)
        alone = Path(name) / "alone" / "packs" / "pack"
        began = time.monotonic()
        race.start(alone).communicate()
        race.seconds = time.monotonic() - began
        for way in WAYS:
            found[way] = list(failures(race, way, arguments.rounds, content(alone)))
            for failure in found[way]:
                sys.stderr.write(f"{failure}\n")
    if arguments.json:
        print(json.dumps({"rounds": arguments.rounds, "seed": arguments.seed, "failures": found}, indent=2))
    else:
        print("| two builders at once | rounds | failures |\n|---|---|---|")
        for way, failed in found.items():
            print(f"| {way} | {arguments.rounds} | {len(failed)} |")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
