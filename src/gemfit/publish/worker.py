"""``python -m gemfit.publish.worker RUN``: the process that pushes beside a training.

It has the lowest priority, one thread and no GPU. ``--hold`` is an inherited file descriptor with the
shared lock on a checkpoint: it is closed when all is staged, and retention may take the checkpoint then.
The last line of stdout says, as JSON, what became of the spool; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.upload.spool import Delivery

NICE = 19
TRIES = 20
LOCK_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Stage, let go of the checkpoint, send."""
    give_way()  # before the seconds of imports
    parser = argparse.ArgumentParser(prog="python -m gemfit.publish.worker")
    parser.add_argument("run", type=Path)
    parser.add_argument("--hold", type=int, action="append", default=[], help="file descriptor of a lock")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    from gemfit.publish.push import as_json  # noqa: PLC0415  (imports after the priority is low)
    from gemfit.publish.retry import Patience  # noqa: PLC0415  (the same)
    from gemfit.publish.send import deliver_spool  # noqa: PLC0415  (the same)

    # Its own lines would name addresses that carry signatures.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("httpx2").setLevel(logging.WARNING)

    def release() -> None:
        for descriptor in options.hold:
            os.close(descriptor)

    run = RunDir.open(options.run)
    try:
        delivery = deliver_spool(run, Patience(), probe=True, lock_seconds=LOCK_SECONDS, staged=release)
    except UserError as error:
        delivery = Delivery(waiting=run.spooled_steps, refused=[str(error)])
    for line in delivery.refused:
        logging.getLogger(__name__).error("%s", line)
    sys.stdout.write(json.dumps(as_json(run, delivery)) + "\n")
    return ExitCode.STOPPED if delivery.waiting else ExitCode.DONE


def give_way(autogroup: Path = Path("/proc/self/autogroup")) -> None:
    """Take the processor only where nobody else wants it; what the kernel refuses of that is said."""
    os.nice(NICE)
    if not autogroup.exists():
        return
    # The kernel shares processors among sessions first, and this process has one of its own: there its
    # niceness counts for nothing, unless the session has it too (sched(7), "The autogroup feature").
    for _ in range(TRIES):
        try:
            autogroup.write_text(str(NICE))
            return
        except BlockingIOError:  # one change in a tenth of a second, of all sessions together
            time.sleep(0.1)
        except OSError:
            break
    sys.stderr.write(f"{autogroup}: cannot be written, so the priority of this session stays as it is\n")


if __name__ == "__main__":
    sys.exit(main())
