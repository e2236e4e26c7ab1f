"""A damaged file of a run or pack, and a command on it: how a trial is made and judged.

    python -m damage.trials [--files manifest,verdict] [--commands status,resume] [--keys]

in ``tests`` tries all files with all damages and commands, each key of JSON files with `--keys`, and prints
what did not end as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from damage.base_run import make_base
from damage.damages import Damage, any_damages, key_damages
from gemfit.errors import ExitCode
from gemfit_launch.cli import main as gemfit
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.node import job
from security.fuzz import describe, limited

LOOKING = {
    "status": ("status", "RUN"),
    "status --json": ("status", "RUN", "--json"),
    "status of all": ("status",),
    "logs": ("logs", "RUN"),
    "logs --job": ("logs", "RUN", "--lines", "1", "--job"),
    "checkpoints": ("checkpoints", "RUN"),
    "resume --dry-run": ("resume", "RUN", "--dry-run"),
}
"""Commands that change nothing."""
CHANGING = {
    "stop": ("stop", "RUN"),
    "cancel": ("cancel", "RUN"),
    "job begin": ("begin",),
    "job end": ("end",),
}
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "HF_HUB_OFFLINE": "1"}
SHOWN = "JobId=7 JobName=x\n   JobState=RUNNING Reason=None Dependency=(null)\n   Requeue=1 Restarts=0\n"


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    text: str
    problem: str = ""
    """Of an exception that reached the user, and of a hang."""


class Trials:
    """Runs commands over a copy of ``root/base`` in ``root/work``, whose files are damaged one at a time."""

    def __init__(self, root: Path) -> None:
        self.root, self.work, self.run = root, root / "work", root / "work" / "run"
        self.work.mkdir()
        make_base(self.work)
        shutil.copytree(self.run, self.work / "runs" / "good")
        (self.work / "runs" / "bad").symlink_to("../run")
        shutil.copytree(self.work, root / "base", symlinks=True)
        self._usual = {name: self._execute(name) for name in (*LOOKING, *CHANGING)}
        self.renew()

    @property
    def files(self) -> list[str]:
        """Files of the run and of its pack, relative to ``work``."""
        folders = (self.root / "base" / name for name in ("run", "pack"))
        found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root / "base").as_posix() for path in found)

    def content(self, file: str) -> bytes:
        return (self.root / "base" / file).read_bytes()

    def renew(self) -> None:
        """Undo whatever was done to the copy."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.root / "base", self.work, symlinks=True)

    def problem(self, file: str, damage: Damage, command: str) -> str:
        """What was wrong with the answer of ``command`` after ``damage``; empty where nothing was."""
        path = self.work / file
        damage(path)
        before = state(path)
        answer = self._execute(command)
        found = self._judge(path, command, answer)
        if not found and command in LOOKING and state(path) != before:
            found = f"the file was changed: {before!r:.60} -> {state(path)!r:.60}"
        if command in LOOKING and path.parent.is_dir():
            restore(path, self.content(file))
        else:
            self.renew()
        return found

    def _judge(self, path: Path, command: str, answer: Answer) -> str:
        if answer.problem or answer == self._usual[command]:
            return answer.problem
        if answer.code not in (ExitCode.DONE, ExitCode.USER_ERROR):
            return f"exit status {answer.code}: {answer.text[-200:]!r}"
        if answer.code == ExitCode.USER_ERROR and not {path.name, path.parent.name} & words(answer.text):
            return f"the file is not named: {answer.text[-200:]!r}"
        if command == "status of all" and "runs/good" not in answer.text:
            return f"another run is hidden: {answer.text[-200:]!r}"
        return ""

    def _execute(self, command: str) -> Answer:
        argv = [word.replace("RUN", str(self.run)) for word in (LOOKING | CHANGING)[command]]
        os.chdir(self.work)
        try:
            with limited():
                return self._hook(argv[0]) if command in ("job begin", "job end") else call(argv)
        except Exception as error:
            return Answer(1, "", describe(error))

    def _hook(self, verb: str) -> Answer:
        answers: list[str] = []
        out, argv = io.StringIO(), ["job", verb, str(self.run), "--max-restarts", "3", "--attempt", "2"]
        with (
            mock.patch.object(job, "write_answer", answers.append),
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stderr(out),
            contextlib.redirect_stdout(out),
        ):
            code = job.main()
        text = out.getvalue()
        if not answers:
            return Answer(code, text, f"the batch script gets no answer: {text[-200:]!r}")
        # A job that ends for such a reason says so in its log, and in the verdict if it can be written.
        return Answer(ExitCode.USER_ERROR if code == ExitCode.FAILED else code, text)


def call(argv: Sequence[str]) -> Answer:
    """``gemfit`` in this process."""
    result = CliRunner().invoke(gemfit, argv)
    error = result.exception
    is_failure = error is not None and not isinstance(error, SystemExit)
    return Answer(result.exit_code, result.output, describe(error) if is_failure else "")  # type: ignore[arg-type]


def words(text: str) -> set[str]:
    """Names in ``text``, of files among them."""
    return set(text.replace("/", " ").replace(":", " ").replace(";", " ").replace(",", " ").split())


def state(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return path.read_bytes() if path.is_file() else "other" if path.exists() else None


def restore(path: Path, content: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def answer_of_slurm(argv: list[str], *, stdin: str) -> subprocess.CompletedProcess[str]:
    """In place of Slurm, whose queue no longer has the job."""
    shown = {
        "show hostnames": "n1\n",
        "show node": "NodeName=n1 NodeAddr=127.0.0.1 State=IDLE\n",
        "show job": SHOWN,
    }
    return subprocess.CompletedProcess(argv, 0, shown.get(" ".join(argv[1:3]), ""), "")


def every_trial(trials: Trials, options: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """File, damage, command and problem of all trials that were chosen."""
    for file in trials.files:
        if not any(part in file for part in options.files.split(",")):
            continue
        make = key_damages if options.keys else any_damages
        for name, damage in make(trials.content(file)):
            for command in (*LOOKING, *CHANGING):
                if any(part in command for part in options.commands.split(",")):
                    yield file, name, command, trials.problem(file, damage, command)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", default="", help="parts of names, separated by commas")
    parser.add_argument("--commands", default="", help="the same")
    parser.add_argument("--keys", action="store_true", help="damage each key of JSON files instead")
    options = parser.parse_args()
    os.environ.update(JOB)
    job.SUBMISSION_SECONDS = job.PACK_SECONDS = 0.0
    commands._run = answer_of_slurm
    count = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEMFIT_CACHE"] = f"{folder}/cache"
        for file, damage, command, problem in every_trial(Trials(Path(folder)), options):
            count += 1
            failed += bool(problem)
            if problem:
                sys.stdout.write(f"{file}, {damage}, {command}: {problem}\n")
        os.chdir("/")
    sys.stdout.write(f"{count} trials, {failed} failures\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
