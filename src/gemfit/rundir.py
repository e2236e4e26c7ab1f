"""Run folder: its state files and lock.

State files are replaced atomically, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gemfit.core.atomic_file import write_atomic
from gemfit.core.file_lock import explaining_locks, lock_state, try_lock
from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.core.regular_file import read_regular
from gemfit.errors import UserError
from gemfit.run_paths import RunPaths
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import AttemptRecord, Verdict
from gemfit.schemas.plan import Plan

FOLDER_LEVELS = 2
"""Of a run folder: all that is written by name lies in it, or in a folder of it."""
MOST_ATTEMPTS = 100_000
"""A larger number is damage: attempts are listed one by one."""
RECENT_SECONDS = 600.0
"""Steps, evaluations and saves of a training are rarely further apart."""


@dataclass(frozen=True, slots=True)
class RunDir(RunPaths):
    """One run on disk."""

    @classmethod
    def create(cls, root: Path, plan: Plan) -> RunDir:
        """Create the folder and write the plan.

        A folder that is not empty, or that cannot be written, is a ``UserError``.
        """
        cls.check_unused(root)
        run = cls(root)
        folders = (root, run.logs, run.checkpoints)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            write_atomic(run.plan_file, plan.to_json())
        except OSError as error:
            for folder in reversed(folders):  # without a plan they would be in the way
                with suppress(OSError):  # one with files in it is that of another process
                    folder.rmdir()
            raise UserError(
                f"{error.filename or root}: cannot be written: {error.strerror}; free some space there, "
                "or choose another --run"
            ) from None
        return run

    @classmethod
    def check_unused(cls, root: Path) -> None:
        """``UserError`` for a folder that is not empty; called before anything expensive."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            is_run = cls(root).plan_file.is_file()
            if not is_run:
                raise UserError(f"{root}: holds files but is not a run folder; choose another --run")
            raise UserError(
                f"{root}: is already in use; resume it with `gemfit resume {root}`, or choose another --run"
            )

    @classmethod
    def open(cls, root: Path) -> RunDir:
        """An existing run; a folder without a plan is a ``UserError``.

        So is a link in it that leads out, or a pipe: the folder may come from somebody else.
        """
        run = cls(root)
        if not run.plan_file.is_file():
            raise UserError(f"{root}: is not a run folder (it has no plan.json)")
        refuse_foreign_files(root, levels=FOLDER_LEVELS)
        return run

    def plan(self) -> Plan:
        return Plan.read(self.plan_file)

    def adopt(self, plan: Plan) -> None:
        """Replace the plan of the run and keep the old one; an equal plan changes nothing."""
        old = self.plan()
        if plan == old:
            return
        self.plans.mkdir(exist_ok=True)
        saved = self.earlier_plan(self.attempt)
        if not saved.exists():  # else no attempt has begun under the plan being replaced
            write_atomic(saved, old.to_json())
        write_atomic(self.plan_file, plan.to_json())

    def verdict(self) -> Verdict | None:
        """How the last attempt ended; ``None`` while it runs and after a crash."""
        return Verdict.read(self.verdict_file) if self.verdict_file.is_file() else None

    def write_verdict(self, verdict: Verdict) -> None:
        write_atomic(self.verdict_file, verdict.to_json())

    @property
    def attempt(self) -> int:
        """Number of the current or last attempt; 0 before the first."""
        try:
            number = int(read_regular(self.attempt_file))
        except FileNotFoundError:
            return 0
        except (ValueError, UserError):
            number = -1
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP):
                raise
            number = -1
        if 0 <= number <= MOST_ATTEMPTS:
            return number
        # Damaged; the record of each attempt is written before its number.
        names = (path.stem.removeprefix("attempt-") for path in self.plans.glob("attempt-*.json"))
        found = (int(name) for name in names if re.fullmatch("[0-9]{1,6}", name))
        return max((number for number in found if number <= MOST_ATTEMPTS), default=0)

    def begin_attempt(self, allowed_changes: Collection[str] = (), *, idle_nodes: int = 0) -> int:
        """Number a new attempt, and remove stop file and verdict of the last one.

        Allowed changes of the last attempt stay allowed: it may have ended before it saved.
        """
        number, earlier = self.attempt + 1, self.attempt_record(self.attempt)
        allowed = tuple(dict.fromkeys([*earlier.allowed_changes, *allowed_changes]))
        record = AttemptRecord(
            attempt=number,
            plan_digest=self.plan().digest,
            allowed_changes=allowed,
            idle_nodes=idle_nodes,
            began=time.time(),
        )
        self.plans.mkdir(exist_ok=True)
        write_atomic(self.attempt_record_file(number), record.to_json())
        write_atomic(self.attempt_file, f"{number}\n")
        self.stop_file.unlink(missing_ok=True)
        self.verdict_file.unlink(missing_ok=True)
        return number

    def end_attempt(self, attempt: int) -> None:
        """Record that the processes of ``attempt`` have ended now; of one without a record, nothing."""
        if not self.attempt_record_file(attempt).is_file():
            return
        record = self.attempt_record(attempt).model_copy(update={"ended": time.time()})
        write_atomic(self.attempt_record_file(attempt), record.to_json())

    def attempt_record(self, attempt: int) -> AttemptRecord:
        """What ``attempt`` was started with; without a record, no change is allowed."""
        path = self.attempt_record_file(attempt)
        return AttemptRecord.read(path) if path.is_file() else AttemptRecord(attempt=attempt, plan_digest="")

    def request_stop(self) -> None:
        """Ask the running attempt to save and stop at the next step."""
        with explaining_locks(self.lock_file):
            write_atomic(self.stop_file, "stop\n")

    def stop_requested_by(self) -> str | None:
        """Content of the stop file; ``None`` without one."""
        try:
            return read_regular(self.stop_file).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise UserError(f"{self.stop_file}: is a folder; remove it") from None

    def is_complete(self, plan: Plan) -> bool:
        """Whether the last attempt completed ``plan``, which may be longer than its own."""
        verdict = self.verdict()
        if verdict is None or verdict.outcome is not AttemptOutcome.COMPLETED:
            return False
        if verdict.step >= plan.steps.total:
            return True
        asked, stop = plan.recipe.evaluation.early_stopping, verdict.early_stop
        if asked is None or stop is None:
            return False
        return asked.patience <= stop.patience and asked.min_delta >= stop.min_delta

    @property
    def is_active(self) -> bool:
        """Whether some process trains this run: it holds the lock.

        Where locks cannot be seen, an attempt without a verdict is active while it writes metrics or logs.
        """
        state = lock_state(self.lock_file)
        return self._has_recent_output() if state == "unknown" else state == "held"

    def _has_recent_output(self) -> bool:
        if self.attempt == 0 or self.verdict_file.is_file():
            return False
        files = (self.metrics_file, self.log(self.attempt), self.attempt_file)
        now, times = time.time(), [path.stat().st_mtime for path in files if path.is_file()]
        # On either side, as clocks differ; far ahead, one of them was wrong.
        return any(abs(now - written) < RECENT_SECONDS for written in times)

    @contextmanager
    def hold(self, *, patience_seconds: float = 0.0) -> Iterator[int]:
        """Lock the run against other launchers; a locked run is a ``UserError``.

        Yields the lock's file descriptor: a child that inherits it keeps the lock while it lives.
        """
        with explaining_locks(self.lock_file):
            stream = self.lock_file.open("a")
        with stream:
            with explaining_locks(self.lock_file):
                is_held = try_lock(stream.fileno(), patience_seconds=patience_seconds)
            if not is_held:
                raise UserError(
                    f"{self.root}: another process is training this run; "
                    f"stop it with `gemfit stop {self.root}`"
                )
            yield stream.fileno()
