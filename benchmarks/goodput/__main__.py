"""Goodput under events of a cluster: gemfit against HF Trainer, on a real Slurm on this machine.

    python benchmarks/goodput [--seed 18] [--events 12] [--parts PART …] [--folder F] [--out FILE]

One side after the other trains the same model on the same rows, on two nodes with one rank each, under
the same trace of events; then each trains without events up to the step that it has reached, so that
losses can be compared. Some 25 minutes on two cores. Slurm is installed with apt-get where it is missing.
With `--folder` parts can be measured one by one: what the folder holds is not measured again, unless
`--parts` asks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from accounting import last_of_each
from event_trace import COUNTS, PlannedEvent, make_trace
from result_page import page
from sides import OurSide, PeerSide, Side
from trace_run import read_steps, train_unbroken, train_under

from realslurm import Cluster, NoSlurm, running_cluster

SEED, SAVE_STEPS = 18, 15
PARTS = ("trace-gemfit", "trace-trainer", "unbroken-gemfit", "unbroken-trainer")
SIGNALS = "SlurmctldParameters=preempt_send_user_signal"
"""The peer's trap needs it: without it, no signal reaches a batch script before preemption."""


def measure(part: str, cluster: Cluster, folder: Path, options: argparse.Namespace) -> None:
    """One run of one side; its records go into the folder."""
    how, _, who = part.partition("-")
    place = folder / part
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    ours = OurSide(cluster, place, options.save_steps)
    plan = ours.plan()
    side: Side = ours if who == "gemfit" else PeerSide(cluster, place, plan, options.save_steps)
    out = folder / f"{part}.json"
    if how == "trace":
        train_under(cluster, side, trace_of(options), out)
    else:
        traced = json.loads((folder / f"trace-{who}.json").read_text())
        train_unbroken(cluster, side, max(last_of_each(read_steps(traced))), out)


def trace_of(options: argparse.Namespace) -> tuple[PlannedEvent, ...]:
    """The trace that the options ask for."""
    return make_trace(options.seed, options.events, stretch=options.stretch)


def other_options(folder: Path, options: argparse.Namespace) -> str | None:
    """The options that the records in the folder were made with, if these are others; else they are noted."""
    asked = {name: getattr(options, name) for name in ("seed", "events", "save_steps", "stretch")}
    note = folder / "options.json"
    made = json.loads(note.read_text()) if note.is_file() else asked
    note.write_text(json.dumps(made))
    if made == asked:
        return None
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in made.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--events", type=int, default=sum(COUNTS.values()))
    parser.add_argument("--save-steps", type=int, default=SAVE_STEPS)
    parser.add_argument("--stretch", type=float, default=1.0, help="multiply all times, for a slower machine")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, help="measure these; else those that are missing"
    )
    parser.add_argument("--folder", type=Path, help="where the records are kept")
    parser.add_argument("--out", type=Path, help="write the page into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch) / "records").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if other := other_options(folder, options):
            sys.stderr.write(f"error: the records in {folder} were made with {other}; use another --folder\n")
            return 2
        missing = [part for part in PARTS if not (folder / f"{part}.json").is_file()]
        try:
            with running_cluster(Path(scratch) / "cluster", parameters=SIGNALS) as cluster:
                version = cluster.call("sinfo", "--version").strip()
                for part in options.parts or missing:
                    measure(part, cluster, folder, options)
        except NoSlurm as reason:
            sys.stderr.write(f"error: {reason}\n")
            return 2
        files = {part: folder / f"{part}.json" for part in PARTS}
        if left := [part for part, file in files.items() if not file.is_file()]:
            print(f"not measured yet: {', '.join(left)}")
            return 0
        found = {part: json.loads(file.read_text()) for part, file in files.items()}
    text = page(found, trace_of(options), slurm=version, options=options)
    print(text)
    if options.out:
        options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
