"""The books of a job, with a small program in the place of scontrol."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import SlowRankRecord, Verdict
from gemfit.schemas.plan import PackReference, Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.replan import on_nodes
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.node.time_limit import requeue_before_limit, seconds_left
from gemfit_launch.slurm.records.job_attempts import (
    LIMIT_REACHED,
    MAX_FRUITLESS_STOPS,
    AttemptFiles,
    NodeEnd,
    read_attempts,
)
from gemfit_launch.slurm.records.job_files import JobFiles

SHOWN = """\
JobId=7 JobName=JobState=CANCELLED Restarts=9
   JobState={state} Reason=None Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1
   RunTime=00:10:00 TimeLimit=01:00:00 TimeMin=N/A
   Partition=low AllocNode:Sid=login:1
   ReqNodeList=(null) ExcNodeList=(null)
"""
SCONTROL = """\
#!/bin/sh
echo "$@" >>{folder}/calls
case "$1 $2" in
  "show hostnames") echo "$3" | tr , '\\n' ;;
  "show node") echo "NodeName=$3 NodeAddr=127.0.0.1 State=IDLE" ;;
  "show nodes") for n in n1 n2 n3; do echo "NodeName=$n State=IDLE Partitions=low,all"; done ;;
  "show job") cat {folder}/job ;;
esac
"""
Calls = Callable[[], list[str]]


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    topology = plan.topology.model_copy(update={"nodes": 2})
    changes = {"topology": topology, "site": Site(name="test", signal_lead_seconds=60)}
    return RunDir.create(tmp_path / "run", plan.model_copy(update=changes))


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What Slurm was asked to change."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(SCONTROL.format(folder=tmp_path))
    tool.chmod(0o755)
    show(tmp_path, "RUNNING")
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "n1,n2", "JOB_NUM_NODES": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(job, "SUBMISSION_SECONDS", 0.0)
    monkeypatch.setattr(job, "PACK_SECONDS", 0.0)
    monkeypatch.setattr(job, "finished_pack", lambda folder: None if "gone" in str(folder) else "a pack")

    def made() -> list[str]:
        lines = (tmp_path / "calls").read_text().splitlines()
        return [line for line in lines if not line.startswith("show")]

    return made


def show(folder: Path, state: str, restarts: int = 0) -> None:
    """What Slurm says of the job from now on."""
    (folder / "job").write_text(SHOWN.format(state=state, restarts=restarts))


def begin(run: RunDir) -> ExitCode:
    return job.begin(run, max_restarts=1)


def end(run: RunDir, outcome: str | None = None, *, step: int = 0) -> ExitCode:
    if outcome is not None:
        verdict = {"outcome": outcome, "attempt": run.attempt, "step": step, "reason": "because"}
        run.write_verdict(Verdict.model_validate(verdict))
    return job.end(run, run.attempt, max_restarts=1)


def fail(run: RunDir, node: str, rank: int, *, at_fault: bool) -> None:
    """Let each node leave word, and this one fail first."""
    files = AttemptFiles(run, run.attempt)
    for other in range(len(read_attempts(run)[-1].start.nodes)):
        word = NodeEnd(
            node=node if other == rank else "other",
            rank=other,
            stage="training",
            status=1,
            reason="a broken part",
            at_fault=at_fault and other == rank,
            time=time.time() + (other != rank),
        )
        files.write(files.node(other), word)


def test_an_attempt_begins_with_a_place_to_meet(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin(run) == ExitCode.DONE
    attempt, host, port, *nodes = capsys.readouterr().out.split()
    assert (attempt, host, nodes) == ("1", "127.0.0.1", ["2", "n1,n2"])
    assert 1024 < int(port) < 65536
    assert run.accelerate_file.is_file()
    assert read_attempts(run)[0].start.nodes == ("n1", "n2")


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


def crash(run: RunDir, *, at_fault: bool = False, max_restarts: int = 2) -> ExitCode:
    """An attempt that crashes on n2."""
    assert job.begin(run, max_restarts=max_restarts) == ExitCode.DONE
    run.log(run.attempt).write_text("the last words\n")
    fail(run, "n2", 1, at_fault=at_fault)
    return job.end(run, run.attempt, max_restarts=max_restarts)


def test_a_crash_begins_again_in_the_job_then_in_the_queue_until_max_restarts(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(3):
        code = crash(run, max_restarts=2)
        said.append((code, capsys.readouterr().out.splitlines()[1:], calls()))
    assert said == [
        (ExitCode.DONE, ["again"], []),
        (ExitCode.DONE, [], ["requeue 7"]),
        (ExitCode.FAILED, [], ["requeue 7"]),
    ]
    verdict = run.verdict()
    assert verdict is not None
    assert "a broken part" in verdict.reason


def test_a_checkpoint_between_two_crashes_lets_both_begin_again_in_the_job(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 6, 9):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        fail(run, "n1", 0, at_fault=False)
        assert end(run) == ExitCode.DONE
        assert capsys.readouterr().out.endswith("again\n")
    assert calls() == []
    assert [attempt.start.nodes for attempt in read_attempts(run)] == 3 * [("n1", "n2")]


def test_the_log_of_the_node_that_failed_is_in_the_log_of_the_job(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.log(run.attempt).write_text("the last words\n")
    fail(run, "n1", 0, at_fault=False)
    end(run)
    assert "n1 | the last words" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["a signal", "preempted", "a fault of the node", "no node began"])
def test_a_crash_goes_through_the_queue_where_the_job_cannot_go_on(
    why: str, run: RunDir, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    if why != "no node began":
        fail(run, "n2", 1, at_fault=why == "a fault of the node")
    if why == "preempted":
        shown = (tmp_path / "job").read_text()
        (tmp_path / "job").write_text(f"{shown}   PreemptTime=2026-11-30T10:00:00\n")
    assert job.end(run, 1, max_restarts=1, was_asked=why == "a signal") == ExitCode.DONE
    assert "again" not in capsys.readouterr().out
    assert calls()[0] == "requeue 7"


def test_nodes_that_srun_has_ended_do_not_keep_the_job_from_beginning_again(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.stop_file.write_text("requeue\n")  # as a supervisor does when srun terminates it
    fail(run, "n2", 1, at_fault=False)
    assert end(run) == ExitCode.DONE
    assert capsys.readouterr().out.endswith("again\n")
    assert calls() == []
    assert begin(run) == ExitCode.DONE
    assert not run.stop_file.exists()


def test_the_next_attempt_avoids_a_node_that_failed(run: RunDir, calls: Calls) -> None:
    begin(run)
    fail(run, "n2", 1, at_fault=True)
    assert end(run) == ExitCode.DONE
    assert calls() == ["requeue 7", "update JobId=7 ExcNodeList=n2"]


@pytest.mark.parametrize("avoids", [True, False])
def test_the_next_attempt_avoids_a_slow_node_where_the_site_says_so(
    run: RunDir, calls: Calls, avoids: bool
) -> None:
    plan = run.plan()
    assert plan.site is not None
    site = plan.site.model_copy(update={"avoid_slow_nodes": avoids})
    run.plan_file.write_text(plan.model_copy(update={"site": site}).to_json())
    begin(run)
    records = [
        SlowRankRecord(
            attempt=attempt, step=20, rank=1, host=host, cause="input", seconds=2, others_seconds=1, time=0
        )
        for attempt, host in ((run.attempt, "n2"), (run.attempt, "elsewhere"), (run.attempt - 1, "n1"))
    ]
    run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in records))
    assert end(run, AttemptOutcome.STOPPED, step=20) == ExitCode.DONE
    assert calls() == ["requeue 7", *(["update JobId=7 ExcNodeList=n2"] if avoids else [])]


def test_a_node_is_not_avoided_where_too_few_would_be_left(
    run: RunDir, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2,n3")
    run.adopt(on_nodes(run.plan(), 3))
    begin(run)
    fail(run, "n2", 1, at_fault=True)
    assert end(run) == ExitCode.DONE
    assert calls() == ["requeue 7"]


def test_an_attempt_that_slurm_ended_is_closed_by_the_next(run: RunDir) -> None:
    begin(run)
    begin(run)
    first, second = read_attempts(run)
    assert first.end is not None
    assert first.end.outcome == AttemptOutcome.INTERRUPTED
    assert second.end is None


def test_a_stop_that_comes_before_the_attempt_is_heard(run: RunDir) -> None:
    run.request_stop()
    assert begin(run) == ExitCode.DONE
    assert run.attempt == 0


def test_a_job_of_the_wrong_size_says_so_in_the_run(
    run: RunDir, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.adopt(plan.model_copy(update={"site": run.plan().site}))  # one node
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "is planned for 1 node, and the job has 2" in verdict.reason


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


def test_a_job_at_its_limit_is_requeued_and_counts_as_interrupted(
    run: RunDir, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    text = (tmp_path / "job").read_text().replace("RunTime=00:10:00", "RunTime=00:59:50")
    (tmp_path / "job").write_text(text)
    assert requeue_before_limit(run, 1) == ExitCode.DONE
    assert calls() == ["requeue 7"]
    assert "time limit is reached before a save" in capsys.readouterr().err
    show(tmp_path, "COMPLETING", restarts=1)
    assert end(run) == ExitCode.DONE
    [attempt] = read_attempts(run)
    assert attempt.end is not None
    assert (attempt.end.outcome, attempt.end.reason) == (AttemptOutcome.INTERRUPTED, LIMIT_REACHED)
    assert calls() == ["requeue 7"]


def test_a_batch_script_killed_at_its_limit_is_recorded_by_the_next_attempt(run: RunDir) -> None:
    begin(run)
    AttemptFiles(run, 1).limit.touch()
    begin(run)
    first = read_attempts(run)[0]
    assert first.end is not None
    assert (first.end.outcome, first.end.reason) == (AttemptOutcome.INTERRUPTED, LIMIT_REACHED)


def test_a_stop_by_command_is_not_requeued_at_the_limit(run: RunDir, calls: Calls, tmp_path: Path) -> None:
    begin(run)
    run.request_stop()
    (tmp_path / "job").write_text((tmp_path / "job").read_text().replace("00:10:00", "00:59:59"))
    assert requeue_before_limit(run, 1) == ExitCode.DONE
    assert calls() == []


@pytest.mark.parametrize(
    ("state", "times", "left"),
    [
        ("RUNNING", "RunTime=00:10:00 TimeLimit=01:00:00", 3000),
        ("RUNNING", "RunTime=01:10:00 TimeLimit=01:00:00", 0),
        ("RUNNING", "RunTime=1-00:00:00 TimeLimit=2-00:00:00 PreemptTime=None", 24 * 3600),
        ("RUNNING", "RunTime=00:10:00 TimeLimit=01:00:00 PreemptTime=2026-11-30T10:00:00", None),
        ("RUNNING", "RunTime=00:10:00 TimeLimit=UNLIMITED", None),
        ("COMPLETING", "RunTime=00:10:00 TimeLimit=01:00:00", None),
        ("CANCELLED", "RunTime=00:10:00 TimeLimit=01:00:00", None),
    ],
)
def test_seconds_to_the_time_limit(state: str, times: str, left: int | None) -> None:
    assert seconds_left(f"JobState={state} Reason=None\n {times}") == left


def test_a_limit_below_the_lead_of_the_signal_is_said(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job").write_text((tmp_path / "job").read_text().replace("01:00:00", "00:01:00"))
    begin(run)
    assert "warning: the job has 60 seconds" in capsys.readouterr().err


def test_stops_right_after_the_start_are_bounded_and_said(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in range(1, MAX_FRUITLESS_STOPS + 2):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        assert end(run, AttemptOutcome.STOPPED, step=step) == ExitCode.DONE
    assert "warning: stopped 10 times in a row within 2 steps" in capsys.readouterr().err
    assert begin(run) == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "stopped 11 times in a row within 2 steps of the start" in verdict.reason


def test_a_stop_after_more_steps_ends_the_count(run: RunDir) -> None:
    for step in range(3, 3 * MAX_FRUITLESS_STOPS + 9, 3):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        end(run, AttemptOutcome.STOPPED, step=step)
    assert begin(run) == ExitCode.DONE


def test_a_job_on_gpus_without_bfloat16_ends_before_ranks_start(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 7.0'; echo '1, GPU-b, 7.0'\n")
    tool.chmod(0o755)
    plan = run.plan()
    model = plan.recipe.model.model_copy(update={"dtype": "bfloat16"})
    recipe = plan.recipe.model_copy(update={"model": model})
    topology = plan.topology.model_copy(update={"device": "cuda"})
    run.adopt(plan.model_copy(update={"recipe": recipe, "topology": topology}))
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "0 of 2 have it (the lowest: 7.0)" in verdict.reason


def test_packed_data_that_is_gone_is_said_before_ranks_start(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = run.plan()
    gone = plan.pack.model_copy(update={"folder": "/packs/gone"})
    run.adopt(plan.model_copy(update={"pack": gone}))
    monkeypatch.setattr("sys.argv", ["job", "begin", str(run.root), "--max-restarts", "1"])
    assert job.main() == ExitCode.FAILED
    assert capsys.readouterr().out == "recorded\n"
    verdict = run.verdict()
    assert verdict is not None
    assert "/packs/gone: the packed data of this run is gone; `gemfit resume" in verdict.reason
    assert run.attempt == 0


@pytest.mark.parametrize("outcome", [AttemptOutcome.FATAL, AttemptOutcome.FAILED, AttemptOutcome.STOPPED])
@pytest.mark.parametrize("is_of_this_job", [True, False])
def test_the_verdict_of_a_packing_job_that_had_to_exit_with_0_is_kept(
    outcome: AttemptOutcome, is_of_this_job: bool, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    run.adopt(run.plan().model_copy(update={"pack": PackReference(fingerprint="f", folder="/packs/gone")}))
    script = JobFiles(run).write_script("train", "")
    run.write_verdict(Verdict(outcome=outcome, attempt=0, step=0, reason="a.jsonl: is empty"))
    if not is_of_this_job:
        os.utime(script, (time.time() + 100, time.time() + 100))
    assert job._begin_or_record(run, 1) == ExitCode.FAILED
    assert capsys.readouterr().out == "recorded\n"
    verdict = run.verdict()
    assert verdict is not None
    is_of_pack = is_of_this_job and outcome is not AttemptOutcome.STOPPED
    assert ("a.jsonl: is empty" if is_of_pack else "is gone; `gemfit resume") in verdict.reason
    assert run.attempt == 0


@pytest.mark.parametrize("name", ["start", "end", "node-0"])
@pytest.mark.parametrize("content", ["", "{", '{"attempt": 1, "later": true}'])
def test_a_damaged_record_of_an_attempt_does_not_end_the_run(
    name: str, content: str, run: RunDir, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    begin(run)
    fail(run, "n1", 0, at_fault=False)
    damaged = AttemptFiles(run, 1).folder / f"attempt-1.{name}.json"
    damaged.write_text(content)
    assert end(run) == ExitCode.DONE
    # A node without an exit record counts as lost.
    assert calls() == (["requeue 7", "update JobId=7 ExcNodeList=n1"] if name == "node-0" else [])
    damaged.write_text(content)
    assert begin(run) == ExitCode.DONE
    assert run.attempt == 2
    assert name == "node-0" or f"{damaged}: " in caplog.text


def test_damaged_submissions_allow_no_change_and_the_run_goes_on(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    JobFiles(run).write_script("train", "")
    JobFiles(run).submissions_file.write_text("{")
    assert begin(run) == ExitCode.DONE
    assert "submissions.json" in capsys.readouterr().err
    assert run.attempt_record(1).allowed_changes == ()


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


@pytest.fixture
def elastic(run: RunDir) -> RunDir:
    """A run of 16 rows in a batch on 2, 3 or 5 nodes of two ranks."""
    run.adopt(on_nodes(run.plan().model_copy(update={"node_counts": (2, 3, 5)}), 5))
    return run


def begun_on(
    run: RunDir, nodes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The nodes that the next attempt uses of those of the job."""
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    assert begin(run) == ExitCode.DONE
    return capsys.readouterr().out.split()[-1]


@pytest.mark.parametrize(
    ("given", "used", "idle"),
    [
        ("n1,n2", "n1,n2", ()),
        ("n1,n2,n3", "n1,n2,n3", ()),
        ("n1,n2,n3,n4", "n1,n2,n3", ("n4",)),
        ("n1,n2,n3,n4,n5", "n1,n2,n3,n4,n5", ()),
    ],
)
def test_an_attempt_uses_as_many_nodes_as_the_batch_needs(
    given: str,
    used: str,
    idle: tuple[str, ...],
    elastic: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert begun_on(elastic, given, monkeypatch, capsys) == used
    plan, start = elastic.plan(), read_attempts(elastic)[0].start
    assert plan.topology.nodes == len(start.nodes) == used.count("n")
    assert plan.batch.world_size == 2 * plan.topology.nodes
    assert (plan.batch.global_batch_size, plan.node_counts) == (16, (2, 3, 5))
    assert start.idle == idle
    assert elastic.attempt_record(1).idle_nodes == len(idle)
    assert f"num_processes: {plan.batch.world_size}\n" in elastic.accelerate_file.read_text()


def test_each_allocation_of_a_job_is_planned_anew_and_trains_the_same(
    elastic: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = elastic.plan()
    for restarts, nodes in enumerate(["n1,n2,n3,n4,n5", "n3,n4", "n1,n3,n5"]):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        assert begun_on(elastic, nodes, monkeypatch, capsys) == nodes
        assert end(elastic, AttemptOutcome.STOPPED) == ExitCode.DONE
        assert elastic.plan().training_identity() == before.training_identity()
        assert elastic.plan().steps == before.steps
    assert [len(attempt.start.nodes) for attempt in read_attempts(elastic)] == [5, 2, 3]


def test_a_plan_of_one_rank_grows_into_ddp_again(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = run.plan().topology.model_copy(update={"nodes": 2, "ranks_per_node": 1})
    run.adopt(run.plan().model_copy(update={"node_counts": (1, 2), "topology": topology}))
    labels = []
    for nodes in ("n1", "n1,n2"):
        begun_on(run, nodes, monkeypatch, capsys)
        labels.append(run.plan().recipe.strategy.label)
    assert labels == ["single", "ddp"]


def test_too_few_nodes_for_the_range_end_the_job_with_a_verdict(
    elastic: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    with pytest.raises(UserError, match="needs 2 nodes or more, and the job has 1"):
        begin(elastic)


def test_a_node_at_fault_is_left_idle_where_the_others_are_enough(
    elastic: RunDir, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun_on(elastic, "n1,n2,n3", monkeypatch, capsys)
    fail(elastic, "n2", 1, at_fault=True)
    assert end(elastic) == ExitCode.DONE
    assert capsys.readouterr().out == "again\n"
    assert begun_on(elastic, "n1,n2,n3", monkeypatch, capsys) == "n1,n3"
    assert read_attempts(elastic)[-1].start.idle == ("n2",)
    assert end(elastic, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == ["requeue 7", "update JobId=7 ExcNodeList=n2"], "two of three nodes are enough"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert begun_on(elastic, "n1,n2,n3", monkeypatch, capsys) == "n1,n2,n3", "a new allocation"


@pytest.mark.parametrize(("nodes", "rank"), [("n1,n2", 1), ("n1,n2,n3", 0)])
def test_a_node_at_fault_is_requeued_where_too_few_are_left_or_the_script_runs_on_it(
    nodes: str,
    rank: int,
    elastic: RunDir,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun_on(elastic, nodes, monkeypatch, capsys)
    name = f"n{rank + 1}"
    fail(elastic, name, rank, at_fault=True)
    assert end(elastic) == ExitCode.DONE
    assert "again" not in capsys.readouterr().out
    assert calls() == ["requeue 7", f"update JobId=7 ExcNodeList={name}"]
