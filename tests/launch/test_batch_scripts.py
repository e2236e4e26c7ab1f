"""The job scripts, executed by bash with small programs in place of Slurm and Python."""

from __future__ import annotations

import fcntl
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.slurm.submit.template import Kind, render

JOB = "7"
PYTHON = """\
#!/bin/bash
echo "$@" >>{folder}/calls
case " $* " in
  *" begin "*) echo "1 127.0.0.1 12345 1 n1" ;;
esac
"""
SRUN = """\
#!/bin/bash
echo "srun" >>{folder}/calls
echo "$PWD: $*" >>{folder}/srun
echo "NOTE=$NOTE IFS=$(printf %q "$IFS")" >>{folder}/calls
"""


@dataclass(frozen=True)
class Node:
    """A folder in which a job script runs."""

    folder: Path
    run: RunDir

    def program(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(folder=self.folder))
        path.chmod(0o755)
        return path

    def execute(self, kind: Kind, *, setup: tuple[str, ...] = (), python: str = "") -> int:
        """Exit status of the job; its log is where Slurm would write it."""
        site = Site(
            name="test", setup=setup, env={"NOTE": "a b"}, python=python or str(self.folder / "bin/python")
        )
        plan = self.run.plan().model_copy(update={"site": site})
        script = self.folder / "job.sbatch"
        script.write_text(render(kind, plan, self.run, self.folder))
        log = self.run.root / "slurm" / f"{kind}-{JOB}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as stream:
            environment = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": JOB}
            done = subprocess.run(
                ["bash", str(script)], env=environment, stdout=stream, stderr=stream, check=False, timeout=60
            )
        return done.returncode

    @property
    def calls(self) -> str:
        path = self.folder / "calls"
        return path.read_text() if path.is_file() else ""

    @property
    def reason(self) -> str:
        """Of the verdict, which has to be `failed`."""
        verdict = self.run.verdict()
        assert verdict is not None
        assert verdict.outcome is AttemptOutcome.FAILED
        return verdict.reason


@pytest.fixture
def node(tmp_path: Path, plan: Plan) -> Node:
    made = Node(tmp_path, RunDir.create(tmp_path / "run", plan))
    made.program("python", PYTHON)
    made.program("srun", SRUN)
    return made


BAD_LINES = [
    "module load cuda/99.9",
    "source ~/no/such/bin/activate",
    "false",
    "cd /no/such/folder && true",
    "true && false",
    "true | (exit 3)",
    "X=$(exit 5)",
    "if true; then",
    "echo 'unterminated",
    "return 4",
    "exit 6",
    "set -e; false",
    "cat <<END | grep -q other\ntext\nEND",
    'echo "say \\"hi\\" \\\\"; false',
]


@pytest.mark.parametrize("kind", ["train", "pack"])
@pytest.mark.parametrize("before", [(), ("true", "X=1")])
@pytest.mark.parametrize("after", [(), ("true",)])
@pytest.mark.parametrize("bad", BAD_LINES)
def test_every_failing_line_of_setup_ends_the_job_with_a_verdict(
    bad: str, before: tuple[str, ...], after: tuple[str, ...], kind: Kind, node: Node
) -> None:
    assert node.execute(kind, setup=(*before, bad, *after)) == 2
    assert "srun" not in node.calls
    if not bad.startswith(("return", "exit", "set -e")):
        assert bad.splitlines()[0] in node.reason
    assert "before its first attempt" in node.reason or "setup" in node.reason


def test_the_verdict_has_the_lines_that_say_why_and_the_step_of_the_run(node: Node) -> None:
    node.run.begin_attempt()
    for step in (8, 90):
        node.run.checkpoint(step).mkdir()
    assert node.execute("train", setup=("no_such_command --here",)) == 2
    assert "no_such_command: command not found" in node.reason
    verdict = node.run.verdict()
    assert verdict is not None
    assert (verdict.attempt, verdict.step) == (1, 90)


@pytest.mark.parametrize(
    "setup",
    [
        (),
        ("# a comment",),
        ("TEXT=$(cat <<END", "two words", "END", ")", '[[ $TEXT == "two words" ]]'),
        ("for x in 1 2; do", "true", "done"),
        (
            "echo one \\",
            "  two",
        ),
        ("set -eu",),
        ("IFS=,",),
        ("false || true",),
        ("f() {", "false", "true", "}", "f"),
    ],
)
@pytest.mark.parametrize("kind", ["train", "pack"])
def test_setup_that_works_starts_the_tasks(kind: Kind, setup: tuple[str, ...], node: Node) -> None:
    assert node.execute(kind, setup=setup) == 0
    assert "srun\nNOTE=a b IFS=$' \\t\\n'\n" in node.calls
    assert node.run.verdict() is None


@pytest.mark.parametrize("kind", ["train", "pack"])
@pytest.mark.parametrize(
    "line",
    [
        "PYTHON=/usr/bin/false CPUS=8 HOST_PYTHON=none RUN_DIR=/tmp/nowhere SRUN_OPTIONS=--odd KIND=x",
        "export PYTHON=/usr/bin/false CPUS=8",
        "attempt=0; until ((++attempt == 3)); do :; done; limit=5 MAX_RESTARTS=99",
        "leave() { echo mine; }; fail() { :; }; requeue() { :; }; ask_to_save() { :; }; ask_to_end() { :; }",
        "cd /",
        "trap 'exit 9' ERR; trap 'true' DEBUG RETURN",
        "set -fCu -o pipefail -o posix; shopt -s failglob nullglob extdebug",
        "set -E; trap 'exit 9' ERR",
        "shopt -s expand_aliases; alias srun=false exec=false",
    ],
)
def test_setup_changes_nothing_of_the_script(line: str, kind: Kind, node: Node) -> None:
    node.execute(kind)
    plain = [(node.folder / name).read_text() for name in ("srun", "calls")]
    for name in ("srun", "calls"):
        (node.folder / name).unlink()
    assert node.execute(kind, setup=(line,)) == 0
    assert [(node.folder / name).read_text() for name in ("srun", "calls")] == plain


def test_setup_with_an_error_trap_loses_no_end_of_an_attempt(node: Node) -> None:
    node.program("srun", "#!/bin/bash\nexit 3\n")
    assert node.execute("train", setup=("trap 'exit 9' ERR",)) == 0
    assert node.calls.splitlines()[-1].endswith(
        "end " + f"{node.run.root} --attempt 1 --status 3 --max-restarts 3"
    )


@pytest.mark.parametrize("line", ["fail() { :; }; false", "leave() { :; }; RUN_DIR=/tmp; exit 3"])
def test_setup_that_fails_after_it_has_taken_a_name_of_the_script_ends_the_job(line: str, node: Node) -> None:
    assert node.execute("train", setup=(line,)) == 2
    assert node.calls == ""
    assert "failed with status 1" in node.reason or "ended with status 3" in node.reason


@pytest.mark.parametrize(
    ("file", "folders", "attempt", "step"),
    [
        (b"one", ("step-00000008", "step-backup"), 0, 8),
        (b"08", ("step-00000090", "step-00000090.old"), 8, 90),
        (b"\0\1", ("step-00000009", "step-", "step-1 2"), 0, 9),
        (b"99999999999999999999", ("step-0x10", "step-x[$(exit)]", "step-9"), 0, 0),
        (b"-1", (), 0, 0),
        (b"", (), 0, 0),
    ],
)
def test_damaged_and_foreign_files_of_the_run_do_not_keep_the_verdict_away(
    file: bytes, folders: tuple[str, ...], attempt: int, step: int, node: Node
) -> None:
    node.run.attempt_file.write_bytes(file)
    for name in folders:
        (node.run.checkpoints / name).mkdir()
    assert node.execute("train", setup=("false",)) == 2
    assert node.calls == ""  # above all, nothing is trained
    verdict = node.run.verdict()
    assert verdict is not None
    assert (verdict.attempt, verdict.step) == (attempt, step)


@pytest.mark.parametrize("answer", ["", "1 127.0.0.1 12345 1 n1"])
def test_lines_that_a_python_of_the_site_prints_first_are_no_answer(answer: str, node: Node) -> None:
    begin = f"[[ -f {{folder}}/again ]] || echo '{answer}'"
    end = "[[ -f {folder}/again ]] || echo again; touch {folder}/again"
    cases = f'*" begin "*) {begin} ;; *" end "*) {end} ;;'
    node.program("python", f'#!/bin/bash\necho "Welcome to 1 cluster"\ncase " $* " in {cases} esac\n')
    assert node.execute("train") == 0
    assert node.calls.count("srun\n") == bool(answer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "/bin/missing: No such file or directory"),
        ("#!/bin/bash\necho 'No module named gemfit_launch' >&2; exit 1\n", "No module named gemfit_launch"),
        ("#!/bin/bash\nkill -9 $$\n", "failed with status 137"),
    ],
)
def test_a_python_that_cannot_run_leaves_a_verdict(text: str | None, words: str, node: Node) -> None:
    python = node.folder / "bin/missing" if text is None else node.program("broken", text)
    assert node.execute("train", python=str(python)) == 2
    assert words in node.reason


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_a_script_that_is_run_by_hand_says_how_it_is_submitted(kind: Kind, node: Node) -> None:
    node.program("python", "#!/bin/bash\ntouch {folder}/called\n")
    script = node.folder / "by hand.sbatch"
    script.write_text(
        render(kind, node.run.plan().model_copy(update={"site": Site(name="x")}), node.run, node.folder)
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(["bash", str(script)], env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"`gemfit resume {node.run.root}` submits it" in done.stderr
    assert node.run.verdict() is None


def test_a_failure_that_begin_has_recorded_is_kept(node: Node) -> None:
    node.program("python", "#!/bin/bash\necho recorded; exit 1\n")
    assert node.execute("train") == 1
    assert node.run.verdict() is None


def test_a_locked_run_is_left_to_the_process_that_trains_it(node: Node) -> None:
    node.program("flock", "#!/bin/bash\nexec /usr/bin/flock --nonblock 9\n")
    with node.run.lock_file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert node.execute("train") == 2
    assert node.run.verdict() is None
    assert "srun" not in node.calls


@pytest.mark.parametrize("status", [65, 66, 69, 71, 127])
def test_a_file_system_without_locks_is_named_as_the_reason(status: int, node: Node) -> None:
    node.program("flock", f"#!/bin/bash\nexit {status}\n")
    assert node.execute("train") == 2
    assert ("is not installed" if status == 127 else "file system without file locks") in node.reason


def test_a_lock_that_cannot_be_written_is_named(node: Node) -> None:
    node.run.lock_file.mkdir()
    assert node.execute("train") == 2
    assert "cannot be written" in node.reason


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


@pytest.mark.parametrize("status", [0, 1, 2, 75, 127, 137])
def test_the_status_of_the_build_is_what_end_gets(status: int, node: Node) -> None:
    node.program("srun", f"#!/bin/bash\nexit {status}\n")
    assert node.execute("pack") == 0
    assert ("end" in node.calls) == (status != 0)
    assert not status or f"--status {status}\n" in node.calls


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


def test_a_setup_that_replaces_traps_loses_no_signal_and_no_verdict(node: Node) -> None:
    setup = ("trap '' TERM USR1; trap 'echo mine' EXIT",)
    node.program("srun", "#!/bin/bash\nkill -USR1 $PPID\nsleep 1\n")
    assert node.execute("train", setup=setup) == 0
    assert node.run.stop_file.read_text() == "requeue\n"
    node.program("python", "#!/bin/bash\nkill -9 $PPID\n")
    node.program("flock", "#!/bin/bash\nexit 127\n")
    assert node.execute("train", setup=setup) == 2
    assert "flock (util-linux) is not installed" in node.reason


def test_a_signal_while_waiting_for_the_lock_requeues_the_job(node: Node) -> None:
    node.program("flock", "#!/bin/bash\nkill -TERM $$\n")
    assert node.execute("train") == 2
    assert node.run.verdict() is None
    assert "requeue_job" in node.calls


def test_the_watch_of_the_time_limit_ends_with_the_attempt(node: Node) -> None:
    watch = '*" limit "*) echo $$ >{folder}/watch; exec sleep 60 ;;'
    ended = '*" end "*) sleep 0.2; kill -0 $(cat {folder}/watch) && touch {folder}/lives ;;'
    begin = '*" begin "*) echo "1 127.0.0.1 12345 1 n1" ;;'
    node.program("python", f'#!/bin/bash\ncase " $* " in {begin} {watch} {ended} esac\nexit 0\n')
    node.program("srun", "#!/bin/bash\nkill -USR1 $PPID\nsleep 1\n")
    assert node.execute("train") == 0
    assert (node.folder / "watch").is_file()
    assert not (node.folder / "lives").exists()


def test_a_signal_during_begin_requeues_the_job(node: Node) -> None:
    begin = 'case " $* " in *" begin "*) kill -TERM $$ ;; *) echo "$@" >>{folder}/calls ;; esac'
    node.program("python", f"#!/bin/bash\n{begin}\n")
    assert node.execute("train") == 2
    assert node.run.verdict() is None
    assert "requeue_job" in node.calls


AGAIN = """\
#!/bin/bash
echo "$4 $7" >>{folder}/calls
case " $* " in
  *" begin "*)
    n=$(($(cat {folder}/n 2>/dev/null) + 1))
    echo $n >{folder}/n
    echo "$n 127.0.0.1 12345 2 n1,n4" ;;
  *" end "*) IN_END; [[ $(cat {folder}/n) == 3 ]] || echo again ;;
esac
"""


def test_the_next_attempt_begins_in_the_same_job_as_often_as_end_says_so(node: Node) -> None:
    node.program("python", AGAIN.replace("IN_END", ":"))
    node.program("srun", "#!/bin/bash\necho srun $2 $3 $5 >>{folder}/calls\n")
    assert node.execute("train") == 0
    once = ["begin 3", "srun --nodes=2 --ntasks=2 --nodelist=n1,n4"]
    assert node.calls.splitlines() == [*once, "end 1", *once, "end 2", *once, "end 3"]


@pytest.mark.parametrize("number", ["USR1", "TERM"])
def test_a_signal_between_two_attempts_is_heard_by_the_next(number: str, node: Node) -> None:
    in_end = f"[[ $(cat {{folder}}/n) == 3 ]] || {{{{ rm -f {node.run.stop_file}; kill -{number} $PPID; }}}}"
    node.program("python", AGAIN.replace("IN_END", in_end))
    node.program("srun", f"#!/bin/bash\ncat {node.run.stop_file} >>{{folder}}/heard; sleep 0.3\n")
    assert node.execute("train") == 0
    assert (node.folder / "heard").read_text() == "requeue\n" * 2
