"""``python -m gemfit.tracking RUN...``: send runs to experiment trackers.

With ``--follow`` it sends what has become final at each line of its standard input, and ends with it. Exit
status 0 when everything is sent, 75 when a tracker lacks something, 2 for errors in the input.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from gemfit.core.file_lock import explaining_locks, try_lock
from gemfit.core.os_errors import explaining_os_errors
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.recipe_training import DERIVED_TRACKERS
from gemfit.tracking.derived_trackers import derived_trackers
from gemfit.tracking.sync import TrackerResult, TrackerSync

logger = logging.getLogger(__name__)

LAST_SECONDS = 60
"""How long the process outlives a training that has ended without waiting for it."""
LOCK_SECONDS = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options and send."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.tracking")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", action="append", choices=DERIVED_TRACKERS, help="instead of the recipe's")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        with explaining_os_errors():
            if options.follow:
                return follow(RunDir.open(options.runs[0]))
            found = {str(run): send(RunDir.open(run), options.to) for run in options.runs}
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    if options.json:
        shown = {run: [asdict(result) for result in results] for run, results in found.items()}
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        for run, results in found.items():
            sys.stdout.writelines(f"{run}: {describe(result)}\n" for result in results)
    failed = any(result.error for results in found.values() for result in results)
    return ExitCode.STOPPED if failed else ExitCode.DONE


def send(run: RunDir, to: Sequence[str] | None) -> list[TrackerResult]:
    """Send a run to the trackers ``to``, else to those of its recipe."""
    names = derived_trackers(to or run.plan().recipe.tracking.report_to)
    if not names:
        raise UserError(
            f"{run.root}: tracking.report_to names none of {', '.join(DERIVED_TRACKERS)}; give one with --to"
        )
    with _sending(run, patience_seconds=LOCK_SECONDS):
        trackers = TrackerSync(run, names)
        try:
            return trackers.send(active=run.is_active, rewrite=True)
        finally:
            trackers.close()


def follow(run: RunDir) -> int:
    """Send at each line of standard input, and for the last time at its end."""
    names = derived_trackers(run.plan().recipe.tracking.report_to)
    # The process of an attempt that has crashed may still be sending.
    with _sending(run, patience_seconds=LAST_SECONDS + LOCK_SECONDS):
        trackers, warned = TrackerSync(run, names), set[str]()
        failed = _warn(trackers.send(active=True, rewrite=True), warned)
        for _ in sys.stdin:
            failed = _warn(trackers.send(active=True, rewrite=False), warned)
        signal.alarm(LAST_SECONDS)
        complete = run.is_complete(run.plan())
        failed = _warn(trackers.send(active=not complete, rewrite=complete), warned)
        trackers.close()
    return ExitCode.STOPPED if failed else ExitCode.DONE


@contextmanager
def _sending(run: RunDir, *, patience_seconds: float) -> Iterator[None]:
    """Let no other process send ``run`` to trackers inside; ``UserError`` if one does after the wait."""
    run.trackers.mkdir(exist_ok=True)
    lock = run.trackers / "lock"
    with explaining_locks(lock), lock.open("a") as held:
        if not try_lock(held.fileno(), patience_seconds=patience_seconds):
            raise UserError(
                f"{run.root}: another process is sending it to trackers; try again when it has ended"
            )
        yield


def describe(result: TrackerResult) -> str:
    """A result as a line."""
    if result.error:
        return f"{result.tracker}: not sent: {result.error}"
    if result.last_step < 0:
        return f"{result.tracker}: no step is final yet; the first checkpoint makes steps final"
    return f"{result.tracker}: {result.steps} steps sent, up to step {result.last_step}"


def _warn(results: list[TrackerResult], warned: set[str]) -> bool:
    """Log each error once: a server that is away is away at every save. Whether there was one."""
    failed = [result for result in results if result.error]
    for result in failed:
        line = describe(result)
        if line not in warned:
            logger.warning("warning: %s", line)
            warned.add(line)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
