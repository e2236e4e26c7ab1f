"""Start the ranks of many runs from one process that has imported torch, transformers and deepspeed once.

A rank spends eight to ten seconds on imports, which is most of the time of a test that trains for a second.
``RankServer`` keeps ``python tests/rank_server.py`` running and asks it to fork the ranks of a run; each goes
through ``gemfit.train`` with the environment that accelerate's own code makes for the plan. Tests of the
launch itself use ``accelerate launch``; see ``Attempts`` in ``train/conftest.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from gemfit.rundir import RunDir

PATIENCE_SECONDS = 300.0


class RankServer:
    """A process that forks ranks on request; started on first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def train(self, run: RunDir, *, stop_at: int | None = None) -> int:
        """Carry out one attempt of ``run``; the exit code that all its ranks ended with, or 1."""
        with run.hold(patience_seconds=1.0):
            return self._ask(
                {"run": str(run.root.resolve()), "stop_at": stop_at, "environment": dict(os.environ)}
            )

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()  # the end of its input is the end of it

    def _ask(self, request: dict[str, Any]) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the process that forks ranks has ended"
        return int(answer)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def serve() -> None:
    """Answer requests, one per line, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    before = dict(os.environ)
    import forked_ranks  # noqa: PLC0415 - it imports torch, which the tests' side does without

    settings = {name: value for name, value in os.environ.items() if before.get(name) != value}
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.clear()
        os.environ.update(request["environment"] | settings)
        forked_ranks.assert_one_thread()
        attempt = forked_ranks.start(RunDir(Path(request["run"])), stop_at=request["stop_at"])
        answers.write(f"{attempt.returncode(timeout_seconds=PATIENCE_SECONDS)}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
