"""Attempts and states of runs that are Slurm jobs."""

from __future__ import annotations

import time

from gemfit.rundir import RunDir
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, AttemptStart
from launch.conftest import Cli
from launch.fake_login import status_of


def begin_in_job(run: RunDir, job: int) -> None:
    """Begin an attempt as the batch script of ``job`` does."""
    files = AttemptFiles(run, run.begin_attempt())
    start = AttemptStart(attempt=files.attempt, job=str(job), nodes=("n1", "n2"), step=0, time=time.time())
    files.write(files.start, start)


def check_status(cli: Cli, run: RunDir, state: str, words: str) -> None:
    found = status_of(cli, run)
    assert (found["state"], words in found["reason"]) == (state, True)
