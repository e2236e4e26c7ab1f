"""How a job script begins attempts, and the verdict that it leaves where it cannot."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.site import Site
from gemfit_launch.slurm.submit.template import Kind, render
from launch.batch_scripts.script_node import Node


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


ATTEMPT = "attempt 1 127.0.0.1 12345 1 n1"
NOISE = [
    "",
    "Welcome to 1 cluster\\n",
    "no newline",
    "leave 0\\nagain\\nattempt 1 a 2 3 b\\n",
    "\\r\\n",
    "\\e[0;31m1 2 3 4 n1\\e[0m\\r\\n",
    "\\xff\\xfe\\xc3(\\n",
    "<gemfit-answer>\\n",
    "\\0\\0\\n",
    "$(touch it)`touch it`\\n",
]


def answers(before: str, after: str, begin: str, end: str, *, status: int = 0) -> str:
    """A site's Python with noise around its answers, on both streams."""
    cases = f'*" begin "*) {begin} ;; *" end "*) {end} ;;'
    noise = "printf '{0}'; printf '{0}' >&2"
    first, last = (noise.replace("{0}", text) for text in (before, after))
    return f'#!/bin/bash\n{first}\ncase " $* " in {cases} esac\n{last}\nexit {status}\n'


def marked(text: str) -> str:
    return f"printf '\\n<gemfit-answer>{text}</gemfit-answer>\\n'"


@pytest.mark.parametrize(
    ("before", "after"), [("".join(NOISE), ""), ("", "".join(NOISE)), *zip(NOISE, NOISE, strict=True)]
)
def test_lines_of_others_around_an_answer_change_nothing(before: str, after: str, node: Node) -> None:
    end = f"if [[ -f {{folder}}/again ]]; then {marked('leave 0')}; else {marked('again')}; fi"
    end += "; touch {folder}/again"
    node.program("python", answers(before, after, marked(ATTEMPT), end))
    assert node.execute("train") == 0
    assert node.calls.count("srun\n") == 2
    assert node.run.verdict() is None


@pytest.mark.parametrize(
    ("said", "status"),
    [("", 0), ("", 1), ("".join(NOISE), 0), (ATTEMPT, 0), (ATTEMPT, 1), (marked("").split("'")[1], 0)],
)
def test_a_begin_without_an_answer_is_a_failure(status: int, said: str, node: Node) -> None:
    node.program("python", answers(said, "", "true", "true", status=status))
    assert node.execute("train") == 2
    assert "srun" not in node.calls
    assert f"`job begin` gave no answer and ended with status {status}" in node.reason


@pytest.mark.parametrize("outcome", ["stopped", "failed", "completed", "fatal"])
@pytest.mark.parametrize("status", [0, 3])
def test_an_end_without_an_answer_keeps_the_outcome_of_a_run_that_is_over(
    status: int, outcome: str, node: Node
) -> None:
    node.program("python", answers("again", "again", marked(ATTEMPT), f"exit {status}"))
    verdict = Verdict(outcome=AttemptOutcome(outcome), attempt=1, step=4, reason="because")
    node.run.write_verdict(verdict)
    if outcome in ("completed", "fatal"):
        assert node.execute("train") == status
        assert node.run.verdict() == verdict
    else:
        assert node.execute("train") == 2
        assert f"`job end` gave no answer and ended with status {status}" in node.reason


@pytest.mark.parametrize("status", [0, 1, 137])
def test_an_end_of_packing_without_an_answer_is_a_failure(status: int, node: Node) -> None:
    node.program("srun", "#!/bin/bash\nexit 1\n")
    node.program("python", answers("leave 0", "", "true", "true", status=status))
    assert node.execute("pack") == 2
    assert f"`pack_job end` gave no answer and ended with status {status}" in node.reason


def test_a_wrapper_that_loses_the_status_does_not_change_what_the_job_ends_with(node: Node) -> None:
    node.program("python", answers("", "", marked("leave 2"), "true"))
    assert node.execute("train") == 2
    assert node.run.verdict() is None
    node.program("srun", "#!/bin/bash\nexit 1\n")
    node.program("python", answers("", "", "true", marked("leave 1"), status=5))
    assert node.execute("pack") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "/bin/missing: No such file or directory"),
        ("#!/bin/bash\necho 'No module named gemfit_launch' >&2; exit 1\n", "No module named gemfit_launch"),
        ("#!/bin/bash\nkill -9 $$\n", "ended with status 137"),
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
    node.program("python", f"#!/bin/bash\n{marked('leave 1')}; exit 1\n")
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


@pytest.mark.parametrize("status", [0, 1, 2, 75, 127, 137])
def test_the_status_of_the_build_is_what_end_gets(status: int, node: Node) -> None:
    node.program("srun", f"#!/bin/bash\nexit {status}\n")
    assert node.execute("pack") == 0
    assert ("end" in node.calls) == (status != 0)
    assert not status or f"--status {status}\n" in node.calls


AGAIN = """\
#!/bin/bash
echo "$4 $7" >>{folder}/calls
case " $* " in
  *" begin "*)
    n=$(($(cat {folder}/n 2>/dev/null) + 1))
    echo $n >{folder}/n
    echo "<gemfit-answer>attempt $n 127.0.0.1 12345 2 n1,n4</gemfit-answer>" ;;
  *" end "*)
    IN_END
    if [[ $(cat {folder}/n) == 3 ]]; then answer="leave 0"; else answer=again; fi
    echo "<gemfit-answer>$answer</gemfit-answer>" ;;
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
