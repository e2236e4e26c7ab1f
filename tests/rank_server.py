"""Start ranks and scripts from one process that has imported torch, transformers and deepspeed once.

A rank spends eight to ten seconds on imports, which is most of the time of a test that trains for a second.
``RankServer`` keeps ``python tests/rank_server.py`` running and asks it to fork the ranks of a run; each goes
through ``gemfit.train`` with the environment that accelerate's own code makes for the plan. Tests of the
launch itself use ``accelerate launch``; see ``Attempts`` in ``train/conftest.py``. A script is run as
``__main__`` of a fork, and may fork ranks itself.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any, NoReturn

from gemfit.core.hub_commit import is_offline
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

    def run(self, script: Path, *options: str, output: Path, errors: Path, timeout_seconds: float) -> int:
        """Carry out a Python script that prints into the two files; its exit code, negative for a signal."""
        request = {
            "argv": [str(script), *options],
            "files": [str(output), str(errors)],
            "seconds": timeout_seconds,
        }
        return self._ask(request | {"environment": dict(os.environ)})

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
        if "argv" in request:
            code = _carry_out(request["argv"], request["files"], request["seconds"])
        else:
            attempt = forked_ranks.start(RunDir(Path(request["run"])), stop_at=request["stop_at"])
            code = attempt.returncode(timeout_seconds=PATIENCE_SECONDS)
        answers.write(f"{code}\n")
        answers.flush()


def _carry_out(argv: list[str], files: list[str], seconds: float) -> int:
    """The exit code of a script in a fork; it is killed when its time is over."""
    if (pid := os.fork()) == 0:
        _be_script(argv, files, seconds)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _be_script(argv: list[str], files: list[str], seconds: float) -> NoReturn:
    from huggingface_hub import constants  # noqa: PLC0415 - forked_ranks has imported it

    code: object = 1
    try:
        for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM ends the process
        sys.argv = argv
        sys.path.insert(0, str(Path(argv[0]).parent))  # as the interpreter does for a script
        constants.HF_HUB_OFFLINE = is_offline()  # was read when it was imported
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
