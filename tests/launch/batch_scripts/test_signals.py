"""Signals that a job script gets before, during and after its tasks."""

from __future__ import annotations

import pytest

from gemfit_launch.slurm.submit.template import Kind
from launch.batch_scripts.script_node import PYTHON, Node


def test_a_signal_before_the_time_limit_asks_for_a_save_and_watches_the_limit(node: Node) -> None:
    node.program("srun", "#!/bin/bash\nkill -USR1 $PPID\nsleep 2\n")
    assert node.execute("train") == 0
    assert node.run.stop_file.read_text() == "requeue\n"
    made = [line.split()[3] for line in node.calls.splitlines()]
    assert made == ["begin", "limit", "end"]
    assert " --asked" in node.calls.splitlines()[-1]


def test_a_signal_before_the_attempt_is_not_lost(node: Node) -> None:
    node.program("srun", "#!/bin/bash\nsleep 1\n")
    assert node.execute("train", setup=("kill -USR1 $$",)) == 0
    assert node.run.stop_file.read_text() == "requeue\n"
    made = [line.split()[3] for line in node.calls.splitlines() if line.startswith("-P")]
    assert sorted(made) == ["begin", "end", "limit"]


@pytest.mark.parametrize(("number", "signalled"), [("USR1", True), ("TERM", False)])
def test_a_signal_ends_the_build_and_is_passed_on_before_the_time_limit(
    number: str, signalled: bool, node: Node
) -> None:
    node.program("scancel", "#!/bin/bash\necho scancel $@ >>{folder}/calls\n")
    node.program("srun", f"#!/bin/bash\nkill -{number} $PPID\nsleep 1\nexit 75\n")
    node.execute("pack")
    end = "-P -m gemfit_launch.slurm.node.pack_job end " + f"{node.run.root} --status 75 --asked"
    assert node.calls.splitlines() == [*(["scancel --signal=TERM 7"] if signalled else []), end]


def test_a_signal_before_the_build_ends_the_job(node: Node) -> None:
    node.execute("pack", setup=("kill -TERM $$",))
    assert "srun" not in node.calls
    assert "--asked" in node.calls


@pytest.mark.parametrize("kind", ["train", "pack"])
@pytest.mark.parametrize(
    "line",
    [
        "kill -TERM $$; false",  # the shell has heard the signal
        "(kill -TERM $BASHPID)",  # only its child
        "bash -c 'kill -TERM $PPID; kill -TERM $$'",
        "kill -USR1 $$; exit 1",
    ],
)
def test_a_signal_during_setup_requeues_the_job_instead_of_failing_it(
    line: str, kind: Kind, node: Node
) -> None:
    assert node.execute(kind, setup=(line,)) == 2
    assert node.run.verdict() is None
    assert node.calls == f"-P -m gemfit_launch.slurm.node.requeue_job {node.run.root}\n"


@pytest.mark.parametrize("kind", ["train", "pack"])
@pytest.mark.parametrize(
    ("state", "preempted", "refused", "asked", "has_verdict"),
    [
        ("RUNNING", "None", False, "scontrol requeue 7\n", False),
        ("COMPLETING", "2026-11-30T10:00:00", False, "scontrol requeue 7\n", False),
        ("COMPLETING", "None", False, "", False),  # cancelled
        ("CANCELLED", "2026-11-30T09:00:00", False, "", False),
        ("RUNNING", "None", True, "scontrol requeue 7\n", True),
        ("", "None", False, "", True),  # Slurm does not answer
    ],
)
def test_a_signal_before_setup_has_reached_the_python_requeues_the_job(
    state: str, preempted: str, refused: bool, asked: str, has_verdict: bool, kind: Kind, node: Node
) -> None:
    (node.folder / "job").write_text(
        f"JobId=7 JobName=a JobState=RUNNING b\n   JobState={state} Reason=None\n"
        "   StartTime=2026-11-30T08:00:00 EndTime=2026-11-30T10:00:00 Deadline=N/A\n"
        f"   PreemptEligibleTime=2026-11-30T10:00:00 PreemptTime={preempted}\n"
    )
    show = f'"show job") cat {{folder}}/job; exit {int(not state)} ;;'
    requeue = f"requeue*) echo scontrol $@ >>{{folder}}/calls; exit {int(refused)} ;;"
    node.program("scontrol", f'#!/bin/bash\ncase "$1 $2" in {show} {requeue} esac\n')
    line = "kill -TERM $$; false"
    assert node.execute(kind, setup=(line,), python=str(node.folder / "bin/missing")) == 2
    assert node.calls == asked
    assert (node.run.verdict() is not None) == has_verdict
    assert not has_verdict or "it could not be requeued: the site's setup failed" in node.reason


def test_a_signal_while_waiting_for_the_lock_requeues_the_job(node: Node) -> None:
    node.program("flock", "#!/bin/bash\nkill -TERM $$\n")
    assert node.execute("train") == 2
    assert node.run.verdict() is None
    assert "requeue_job" in node.calls


def test_the_watch_of_the_time_limit_ends_with_the_attempt(node: Node) -> None:
    watch = '*" limit "*) echo $$ >{folder}/watch; exec sleep 60 ;;'
    leave = "LEAVE='<gemfit-answer>leave 0</gemfit-answer>'"
    ended = '*" end "*) sleep 0.2; kill -0 $(cat {folder}/watch) && touch {folder}/lives; echo "$LEAVE" ;;'
    begin = '*" begin "*) echo "<gemfit-answer>attempt 1 127.0.0.1 12345 1 n1</gemfit-answer>" ;;'
    node.program("python", f'#!/bin/bash\n{leave}\ncase " $* " in {begin} {watch} {ended} esac\nexit 0\n')
    node.program("srun", "#!/bin/bash\nkill -USR1 $PPID\nsleep 1\n")
    assert node.execute("train") == 0
    assert (node.folder / "watch").is_file()
    assert not (node.folder / "lives").exists()


def test_a_signal_during_begin_requeues_the_job(node: Node) -> None:
    node.program("python", PYTHON.replace('echo "<gemfit-answer>attempt', 'kill -TERM $$; : "'))
    assert node.execute("train") == 2
    assert node.run.verdict() is None
    assert "requeue_job" in node.calls
