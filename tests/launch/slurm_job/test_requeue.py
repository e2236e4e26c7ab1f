"""`job end`: when a job is requeued, and what scontrol may answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.node.requeue_job import restart_count
from gemfit_launch.slurm.records.job_attempts import read_attempts
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.slurm_job.hooks import Calls, begin, end, show


def test_a_run_that_saved_goes_back_into_the_queue(run: RunDir, calls: Calls) -> None:
    begin(run)
    assert end(run, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == ["requeue 7"]


def test_a_run_stopped_by_command_is_not_requeued(run: RunDir, calls: Calls) -> None:
    begin(run)
    run.request_stop()
    assert end(run, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == []


@pytest.mark.parametrize(("state", "restarts"), [("CANCELLED", 0), ("COMPLETING", 0), ("COMPLETING", 1)])
def test_a_job_that_is_cancelled_or_already_queued_is_not_requeued(
    run: RunDir, calls: Calls, tmp_path: Path, state: str, restarts: int
) -> None:
    begin(run)
    show(tmp_path, state, restarts)
    assert end(run, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == []


def test_a_completed_and_a_fatal_run_end(run: RunDir, calls: Calls) -> None:
    begin(run)
    assert end(run, AttemptOutcome.FATAL) == ExitCode.USER_ERROR
    begin(run)
    assert end(run, AttemptOutcome.COMPLETED, step=10) == ExitCode.DONE
    assert begin(run) == ExitCode.DONE
    assert run.attempt == 2, "there is nothing more to do"
    assert calls() == []


def test_a_controller_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/up ] && echo hello && exit\ntouch {tmp_path}/up\n"
        "echo 'Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"
    )
    monkeypatch.setattr(requeue, "RETRY_SECONDS", 0.01)
    assert requeue.scontrol("ping") == "hello\n"


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        ("scontrol: error: Unable to contact slurm controller (connect failure)", True),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", True),
        ("slurm_load_jobs error: Zero Bytes were transmitted or received", True),
        ("slurm_load_jobs error: Message send failure", True),
        ("slurm_load_jobs error: Slurm backup controller in standby mode", True),
        ("slurm_load_jobs error: Resource temporarily unavailable", True),
        ("slurm_load_jobs error: Protocol authentication error", True),
        ("scontrol: error: If munged is up, restart with --num-threads=10", True),
        ("slurm_load_jobs error: Invalid job id specified", False),
        ("Access/permission denied for job 7", False),
        ("Requested operation is presently disabled", False),
    ],
)
def test_only_what_may_pass_is_asked_again(
    answer: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "scontrol").write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/up ] && echo hello && exit\ntouch {tmp_path}/up\n"
        f"echo '{answer}' >&2\nexit 1\n"
    )
    monkeypatch.setattr(requeue, "RETRY_SECONDS", 0.01)
    if again:
        assert requeue.scontrol("ping") == "hello\n"
    else:
        with pytest.raises(UserError, match=answer.split()[-1]):
            requeue.scontrol("ping")


BANNER = "echo 'Welcome to n, the cluster'; echo; echo 'JobState=CANCELLED Restarts=9'; echo -----"


def test_lines_that_a_wrapper_of_scontrol_prints_are_no_nodes_and_no_state(
    run: RunDir, calls: Calls, tmp_path: Path
) -> None:
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(tool.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{BANNER}\n"))
    assert requeue.host_names("n1,n2") == ("n1", "n2")
    assert requeue.show_job("7").startswith("   JobState=RUNNING")
    begin(run)
    assert read_attempts(run)[-1].start.nodes == ("n1", "n2")
    assert end(run, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == ["requeue 7"]


@pytest.mark.parametrize("partition", ["low", "high,low", "low,none"])
def test_nodes_of_a_job_in_several_partitions_are_those_of_any(partition: str) -> None:
    assert requeue.usable_nodes(partition) == {"n1", "n2", "n3"}
    assert requeue.usable_nodes("high") == set()


UNANSWERED = "echo 'Unexpected message received for job 7' >&2; exit 1"


def answer_requeues(folder: Path, *answers: str) -> None:
    """Answers of `scontrol requeue`, one per call, as shell lines; the last one repeats."""
    tool = folder / "bin" / "scontrol"
    cases = "".join(f"  {number}) {answer} ;;\n" for number, answer in enumerate(answers[:-1], start=1))
    count = (
        f"echo x >>{folder}/requeues\ncase $(wc -l <{folder}/requeues) in\n{cases}  *) {answers[-1]} ;;\nesac"
    )
    text = tool.read_text().replace("#!/bin/sh\n", "#!/bin/sh\nif [ $1 = requeue ]; then\n:\nREQUEUE\nfi\n")
    tool.write_text(text.replace("REQUEUE", count))


@pytest.mark.parametrize(
    ("after", "requeues"),
    [
        ("true", 2),  # the requeue did not take place, so it is repeated
        ("sed -i 's/Restarts=0/Restarts=1/' {job}", 1),
        ("sed -i 's/JobState=RUNNING/JobState=PENDING/' {job}", 1),
        ("sed -i 's/JobState=RUNNING/JobState=CANCELLED/' {job}", 1),
    ],
)
def test_the_job_decides_whether_a_requeue_without_an_answer_took_place(
    after: str, requeues: int, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "RETRY_SECONDS", 0.01)
    begin(run)
    answer_requeues(tmp_path, f"{after.format(job=tmp_path / 'job')}; {UNANSWERED}", "exit 0")
    assert end(run, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert (tmp_path / "requeues").read_text().count("x") == requeues


def test_a_refused_requeue_is_not_repeated(run: RunDir, tmp_path: Path) -> None:
    begin(run)
    answer_requeues(tmp_path, "echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(UserError, match="presently disabled"):
        end(run, AttemptOutcome.STOPPED)


@pytest.mark.parametrize("outcome", [None, AttemptOutcome.STOPPED])
def test_a_cancelled_job_is_recorded_as_such(
    outcome: str | None, run: RunDir, calls: Calls, tmp_path: Path
) -> None:
    begin(run)
    show(tmp_path, "CANCELLED")
    assert end(run, outcome) == ExitCode.DONE
    assert calls() == []
    assert JobFiles(run).was_cancelled(7)
    [attempt] = read_attempts(run)
    assert attempt.end is not None
    assert attempt.end.outcome == (outcome or AttemptOutcome.CANCELLED)


@pytest.mark.parametrize(("value", "count"), [(None, 0), ("", 0), ("0", 0), ("3", 3)])
def test_slurm_counts_restarts_from_the_first_one_on(
    value: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if value is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", value)
    assert restart_count() == count


@pytest.mark.parametrize(
    ("nodelist", "printed", "names"),
    [
        ("n[1-2]", "Welcome\nn1\nn2\nBye", ("n1", "n2")),
        ("n[1-2],gpu7", "node 1\nnotice\nn1\r\nn2\r\ngpu7\r\nn1 is up\ngpu78", ("n1", "n2", "gpu7")),
        ("a[08-10]b[1-2]", "a08b1\na10b2\na\na08", ("a08b1", "a10b2")),
        ("bgl[000x133]", "bgl000\nbgl0A1", ("bgl000", "bgl0A1")),
        ("x.y-z", "\x1b[0;1mhello\x1b[0m\nxay-z\nx.y-z\x1b[0m", ("x.y-z",)),
    ],
)
def test_names_of_hosts_are_told_from_lines_around_them(
    nodelist: str, printed: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    answer = tmp_path / "answer"
    answer.write_text(printed)
    (tmp_path / "bin" / "scontrol").write_text(f"#!/bin/sh\ncat {answer}\n")
    assert requeue.host_names(nodelist) == names


@pytest.mark.parametrize("printed", ["", "Welcome\n", "JobId=7 JobName=a\n", "JobState=RUNNING\n\x00"])
def test_output_without_the_names_or_the_state_is_an_error(printed: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text(printed)
    (tmp_path / "bin" / "scontrol").write_text(f"#!/bin/sh\ncat {answer}\n")
    with pytest.raises(UserError, match="n1: printed no names"):
        requeue.host_names("n1")
    if "JobState" not in printed:
        with pytest.raises(UserError, match="job 7: printed no state"):
            requeue.show_job("7")
