"""A program that behaves like training towards the launcher: records, the stop file, a verdict.

Run by the tests of the launcher as ``python fake_training.py RUN_DIR [options]``; a run goes on
where the last attempt stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import EvalRecord, StepRecord

AS_RANK = """
from gemfit.core.stop_signals import end_with_launcher
end_with_launcher()
print('bound', flush=True)
"""


def main(root: Path, stop_at: int | None) -> ExitCode:
    run = RunDir.open(root)
    total, attempt = run.plan().steps.total, run.attempt
    report_surroundings(run)
    done = len(run.metrics_file.read_text().splitlines()) if run.metrics_file.is_file() else 0
    for step in range(done + 1, total + 1):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0.01")))
        if step == int(os.environ.get("FAKE_CRASH_AT", "0")):
            raise RuntimeError("the fake crash")
        append(run, step_record(attempt, step))
        if run.stop_file.exists() or step == stop_at:
            return leave(
                run, Verdict(outcome=AttemptOutcome.STOPPED, attempt=attempt, step=step), ExitCode.STOPPED
            )
    append(
        run,
        EvalRecord(
            attempt=attempt,
            step=total,
            loss=2.0,
            perplexity=7.4,
            token_accuracy=0.5,
            tokens=9,
            time=time.time(),
        ),
    )
    if reason := os.environ.get("FAKE_FATAL"):
        verdict = Verdict(outcome=AttemptOutcome.FATAL, attempt=attempt, step=total, reason=reason)
        return leave(run, verdict, ExitCode.USER_ERROR)
    return leave(run, Verdict(outcome=AttemptOutcome.COMPLETED, attempt=attempt, step=total), ExitCode.DONE)


def report_surroundings(run: RunDir) -> None:
    emit("to stdout")
    emit(f"arguments: {' '.join(sys.argv[2:])}")
    sys.stderr.write("to stderr\n")
    for name, value in os.environ.items():
        if name.startswith(("GEMFIT_", "OMP_", "SLURM_")):
            emit(f"{name}={value}")
    emit(", ".join(sorted(path.name for path in run.root.glob("*.yaml"))))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, report_signal)
    if kind := os.environ.get("FAKE_CHILD"):
        sleep = [sys.executable, "-c", (AS_RANK if kind == "rank" else "") + "import time; time.sleep(60)"]
        emit(f"child {subprocess.Popen(sleep, start_new_session=True).pid} started")


def report_signal(number: int, frame: FrameType | None) -> None:
    emit("got a signal")


def step_record(attempt: int, step: int) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=step,
        epoch=step / 10,
        loss=3 - step / 10,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1000.0,
        time=time.time(),
        rows_digest="0" * 32,
    )


def append(run: RunDir, record: StepRecord | EvalRecord) -> None:
    with run.metrics_file.open("a") as stream:
        stream.write(record.model_dump_json() + "\n")


def leave(run: RunDir, verdict: Verdict, code: ExitCode) -> ExitCode:
    run.write_verdict(verdict)
    return code


def emit(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    limit = int(sys.argv[3]) if sys.argv[2:3] == ["--stop-at"] else None
    sys.exit(main(Path(sys.argv[1]), limit))
