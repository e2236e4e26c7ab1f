"""``python -m gemfit.train RUN_DIR [options]``: one rank of a run, under ``accelerate launch``.

Exit status 0 when the plan is done, 75 when stopped and resumable, 2 with ``error: …`` on stderr for
an error of the user. A bug keeps its traceback and leaves no verdict.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

from gemfit.errors import ExitCode, UserError


def main() -> ExitCode:
    """Parse the arguments, train, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.train", description="Train one rank of a run.")
    parser.add_argument("run_dir", type=Path, help="folder with plan.json")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop after this step")
    parser.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        metavar="KEY",
        help="resume although this key of the training identity has changed",
    )
    arguments = parser.parse_args()
    _quiet()
    from gemfit.train.main import train, write_fatal  # noqa: PLC0415  (seconds of imports after --help)

    try:
        return train(arguments.run_dir, arguments.stop_at, arguments.allow_changed)
    except UserError as error:
        if _rank() == 0:
            sys.stderr.write(f"error: {error}\n")
            if (arguments.run_dir / "plan.json").is_file():
                write_fatal(arguments.run_dir, error)
        return ExitCode.USER_ERROR
    except Exception:
        traceback.print_exc()
        return ExitCode.FAILED


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _quiet() -> None:
    """Show gemfit's own log lines and warnings of libraries; filter the noise named here."""
    level = logging.INFO if _rank() == 0 else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format=f"[rank {_rank()}] %(message)s", stream=sys.stdout)
    logging.getLogger("gemfit").setLevel(level)
    # The trainer counts gradient accumulation steps itself, and DeepSpeed by its own configuration.
    logging.getLogger("accelerate.accelerator").addFilter(
        lambda record: "Gradient accumulation steps mismatch" not in record.getMessage()
    )
    # torch 2.13 renamed two collectives; DeepSpeed and FSDP2 still call the old names.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)


if __name__ == "__main__":
    code = main()
    from gemfit.train.distributed.cpu_backend import leave

    leave(code)
