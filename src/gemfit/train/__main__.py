"""``python -m gemfit.train RUN_DIR [options]``: one rank of a run, under ``accelerate launch``.

Exit status 0 when the plan is done, 75 when stopped and resumable, 2 with ``error: …`` on stderr for
an error of the user. A bug keeps its traceback; it leaves a verdict only where a restart cannot help.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
import warnings
from pathlib import Path

from gemfit.core.garbage import importing
from gemfit.core.hidden_packages import hidden
from gemfit.core.launcher_environment import remove_working_folder_from_path
from gemfit.core.stop_signals import end_with_launcher
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.train.attempt_verdict import rank_of_process, write_failure
from gemfit.train.unused_packages import UNUSED_BY_TRAINER, unused_packages


def main() -> ExitCode:
    """Parse the arguments, train, and return the exit status."""
    end_with_launcher()
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
    remove_working_folder_from_path()
    try:
        with hidden(unused_packages(RunDir.open(arguments.run_dir).plan().recipe)):
            with hidden(UNUSED_BY_TRAINER), importing():
                from gemfit.train.main import train  # noqa: PLC0415  (seconds of imports after --help)
            return train(arguments.run_dir, arguments.stop_at, arguments.allow_changed)
    except UserError as error:
        if rank_of_process() == 0:
            sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, ImportError):
            _state_import_error(arguments.run_dir, error)
        return ExitCode.FAILED


def _state_import_error(run_dir: Path, error: ImportError) -> None:
    """Leave a verdict where not even the training's own modules can be imported."""
    reason = f"the training cannot be imported ({error}); install it in the environment of the ranks"
    if (run_dir / "plan.json").is_file():
        write_failure(RunDir.open(run_dir), AttemptOutcome.FATAL, f"{reason}, see `gemfit doctor`")


def _quiet() -> None:
    """Show gemfit's own log lines and warnings of libraries; filter the noise named here."""
    level = logging.INFO if rank_of_process() == 0 else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format=f"[rank {rank_of_process()}] %(message)s", stream=sys.stdout
    )
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
