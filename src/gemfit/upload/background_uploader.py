"""Background upload of checkpoints during training, from rank 0.

A step does not wait: the thread that has written a checkpoint takes a shared lock on it and adds a pending
push; another thread starts a process that exports and sends it, and releases the lock once the export is
complete. One such process runs at a time; a newer pending push replaces older ones, unless each is to be
tagged. No torch.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from gemfit.checkpoint.integrity import read_manifest
from gemfit.checkpoint.retention import best_of, reading
from gemfit.core.launcher_environment import without_launcher_variables
from gemfit.core.marked_answer import find_answers
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.upload.spool import Push, Spool, push_of_step

logger = logging.getLogger(__name__)

KILL_SECONDS = 5.0


class BackgroundUploader:
    """Pushes the checkpoints that the recipe asks for. Its failures never affect training."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run, self._hub, self._total = run, plan.recipe.hub, plan.steps.total
        self._spool = Spool.of(run)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._mutex = threading.Lock()
        self._locks: list[tuple[Push, ExitStack]] = []
        """Shared locks on the checkpoints of pending pushes that no process exports yet."""
        self._has_pending = False
        """Whether a push was added since the last process started."""
        self._upload: Future[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closing = False
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Continue with the pushes that an earlier attempt has left in the spool."""
        if self._hub.push != "never" and self._run.spooled_steps:
            self._start()

    def on_commit(self, step: int) -> None:
        """Push the checkpoint of ``step`` if the recipe asks for it; returns within milliseconds."""
        try:
            if not self._is_requested(step):
                return
            push, lock = push_of_step(self._hub, step), ExitStack()
            lock.enter_context(reading(self._run.checkpoint(step)))
            self._spool.add(push)
        except (OSError, UserError) as error:
            self._warn_once(f"step {step} is not pushed: {error}")
            return
        with self._mutex:
            for older in [one for one in self._locks if push.replaces(one[0])]:
                older[1].close()
                self._locks.remove(older)
            self._locks.append((push, lock))
        self._start()

    def finish(self, seconds: float) -> None:
        """Wait up to ``seconds`` for the push in progress, then end it; unsent pushes stay in the spool."""
        if self._hub.push == "never":
            return
        if self._upload is not None and not self._upload.done() and seconds:
            logger.info("waiting up to %.0f s for the push in progress", seconds)
            wait([self._upload], timeout=seconds)
        with self._mutex:
            self._is_closing = True
            self._terminate()
        self._thread.shutdown(wait=True, cancel_futures=True)
        _release(self._locks)
        if waiting := self._run.spooled_steps:
            steps = ", ".join(map(str, waiting))
            logger.warning("not pushed: step %s; later: gemfit push --spooled %s", steps, self._run.root)

    def _is_requested(self, step: int) -> bool:
        if self._hub.push == "best":
            found = [(folder, read_manifest(folder)) for folder in self._run.committed()]
            known = [(folder, entry) for folder, entry in found if not isinstance(entry, str)]
            return best_of(known) == self._run.checkpoint(step)
        return self._hub.push == "every_save" or (self._hub.push == "end" and step >= self._total)

    def _start(self) -> None:
        self._has_pending = True
        self._upload = self._thread.submit(self._send_spool)

    def _send_spool(self) -> None:
        """Start a process that exports and sends the spool, and wait for its end."""
        with self._mutex:
            if self._is_closing or not self._has_pending:
                return
            self._has_pending, locks, self._locks = False, self._locks, []
            try:
                self._process = process = self._launch()
            except OSError as error:
                _release(locks)
                self._warn_once(f"the process that pushes cannot be started: {error}")
                return
        assert process.stdout is not None, "it is a pipe"
        with process:
            output = b""
            for line in process.stdout:
                output += line
                if _answers(output):  # it has exported all pending pushes
                    break
            _release(locks)
            output += process.stdout.read()
        if not self._is_closing:
            self._log_result(process.returncode, output)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._spool.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "gemfit.publish.worker", str(self._run.root)],
                env=worker_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _log_result(self, status: int, output: bytes) -> None:
        answers = _answers(output)
        if status not in (ExitCode.DONE, ExitCode.STOPPED) or not answers:
            self._warn_once(f"the process that pushes ended with status {status}; see {self._spool.log}")
            return
        result = json.loads(answers[-1])
        for sent in result["sent"]:
            logger.info("step %d: pushed to %s (%s)", sent["step"], sent["repo"], sent["url"])
        for reason in [*result["refused"], *([result["reason"]] if result["reason"] else [])]:
            self._warn_once(f"not pushed, and kept in the spool: {reason}; see {self._spool.log}")

    def _warn_once(self, line: str) -> None:
        """Log a warning once: an endpoint that is down fails at every save."""
        if line not in self._warned:
            self._warned.add(line)
            logger.warning("%s", line)

    def _terminate(self) -> None:
        """End the process in progress; completed exports and sent pushes stay."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _release(locks: list[tuple[Push, ExitStack]]) -> None:
    for _, lock in locks:
        lock.close()


def worker_environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` without the variables of a rank, with one thread and no GPU. A token in it is kept."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS")
    return (
        without_launcher_variables(base)
        | dict.fromkeys(threads, "1")
        | {
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
    )


def _answers(output: bytes) -> list[str]:
    return find_answers(output.decode(errors="replace"))
