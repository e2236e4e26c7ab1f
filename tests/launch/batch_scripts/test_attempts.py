"""How a job script begins attempts, and the verdict that it leaves where it cannot."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest

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
