"""``python -m gemfit.publish.worker RUN``: the process that pushes during training.

It writes two marked answers to stdout: ``exported`` when the pending pushes are exported, so that their
checkpoints may be removed, and the result as JSON. Its log goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gemfit.core.marked_answer import write_answer
from gemfit.errors import ExitCode, UserError
from gemfit.publish.push import as_json
from gemfit.publish.send_spool import send_spool
from gemfit.rundir import RunDir
from gemfit.upload.spool import SpoolResult

LOCK_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Export and send the spool of a run."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.publish.worker")
    parser.add_argument("run", type=Path)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # Their own lines contain signed URLs.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    run = RunDir.open(options.run)
    try:
        result = send_spool(run, probe=True, lock_seconds=LOCK_SECONDS, on_exported=_announce)
    except UserError as error:
        result = SpoolResult(waiting=run.spooled_steps, refused=[str(error)])
    for line in result.refused:
        logging.getLogger(__name__).error("%s", line)
    write_answer(json.dumps(as_json(run, result)))
    return ExitCode.STOPPED if result.waiting else ExitCode.DONE


def _announce() -> None:
    write_answer("exported")


if __name__ == "__main__":
    sys.exit(main())
