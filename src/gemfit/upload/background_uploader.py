"""Push checkpoints while the training goes on, from rank 0.

A step costs nothing: the thread that has written a checkpoint takes a shared lock on it, notes what is
wanted, and another thread starts a process of low priority that inherits the lock and does the rest. One
such process runs at a time; the newest checkpoint that waits for it replaces older ones, unless each is
to be tagged. No torch.
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
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.upload.spool import Push, Spool, wanted_push

logger = logging.getLogger(__name__)

KILL_SECONDS = 5.0


class Pusher:
    """Pushes what the recipe asks for. Nothing that goes wrong with it reaches the training."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run, self._hub, self._total = run, plan.recipe.hub, plan.steps.total
        self._spool = Spool.of(run)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._mutex = threading.Lock()
        self._held: list[tuple[Push, ExitStack, int]] = []
        """Checkpoints that wait for the process, each with its lock and the descriptor of that."""
        self._due = False
        """Whether something came since the last process began."""
        self._underway: Future[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving = False
        self._said: set[str] = set()

    def begin(self) -> None:
        """Go on with what an earlier attempt has left in the spool."""
        if self._hub.push != "never" and self._run.spooled_steps:
            self._start()

    def committed(self, step: int) -> None:
        """Push the checkpoint of ``step`` if the recipe wants it; returns within milliseconds."""
        try:
            if not self._wanted(step):
                return
            push, held = wanted_push(self._hub, step), ExitStack()
            descriptor = held.enter_context(reading(self._run.checkpoint(step)))
            self._spool.want(push)
        except (OSError, UserError) as error:
            self._say(f"step {step} is not pushed: {error}")
            return
        with self._mutex:
            for waiting in [one for one in self._held if push.replaces(one[0])]:
                waiting[1].close()
                self._held.remove(waiting)
            self._held.append((push, held, descriptor))
        self._start()

    def finish(self, seconds: float) -> None:
        """Give the pushes under way ``seconds``, then end them; what is not sent stays in the spool."""
        if self._hub.push == "never":
            return
        if self._underway is not None and not self._underway.done() and seconds:
            logger.info("waiting up to %.0f s for what is being pushed", seconds)
            wait([self._underway], timeout=seconds)
        with self._mutex:
            self._leaving = True
            self._terminate()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if waiting := self._run.spooled_steps:
            steps = ", ".join(map(str, waiting))
            logger.warning("not pushed: step %s; later: gemfit push --spooled %s", steps, self._run.root)

    def _wanted(self, step: int) -> bool:
        if self._hub.push == "best":
            found = [(folder, read_manifest(folder)) for folder in self._run.committed()]
            known = [(folder, entry) for folder, entry in found if not isinstance(entry, str)]
            return best_of(known) == self._run.checkpoint(step)
        return self._hub.push == "every_save" or (self._hub.push == "end" and step >= self._total)

    def _start(self) -> None:
        self._due = True
        self._underway = self._thread.submit(self._deliver)

    def _deliver(self) -> None:
        """Have a process stage and send all that waits now, and await its end."""
        with self._mutex:
            if self._leaving or not self._due:
                return
            self._due, held, self._held = False, self._held, []
            try:
                self._process = process = self._launch([descriptor for _, _, descriptor in held])
            except OSError as error:
                self._say(f"the process that pushes cannot be started: {error}")
                return
            finally:
                for _, stack, _ in held:  # the process has inherited the locks
                    stack.close()
        output, _ = process.communicate()
        if not self._leaving:
            self._tell(process.returncode, output)

    def _launch(self, descriptors: list[int]) -> subprocess.Popen[bytes]:
        holds = [part for descriptor in descriptors for part in ("--hold", str(descriptor))]
        with self._spool.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "gemfit.publish.worker", str(self._run.root), *holds],
                env=environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=descriptors,
            )

    def _tell(self, status: int, output: bytes) -> None:
        if status not in (ExitCode.DONE, ExitCode.STOPPED):
            self._say(f"the process that pushes ended with status {status}; see {self._spool.log}")
            return
        outcome = json.loads(output)
        for sent in outcome["sent"]:
            logger.info("step %d: pushed to %s (%s)", sent["step"], sent["repo"], sent["url"])
        for why in [*outcome["refused"], *([outcome["reason"]] if outcome["reason"] else [])]:
            self._say(f"not pushed, and kept in the spool: {why}; see {self._spool.log}")

    def _say(self, line: str) -> None:
        """Each trouble once: an endpoint that is down is so at every save."""
        if line not in self._said:
            self._said.add(line)
            logger.warning("%s", line)

    def _terminate(self) -> None:
        """End the process under way: what it has staged and sent counts, and nothing else is left."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` without the traces of a rank: one thread, no GPU. A token in it is handed on, as it is."""
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
