"""The lines of a site's `setup` in a job script: each is checked, and none changes the script."""

from __future__ import annotations

import pytest

from gemfit_launch.slurm.submit.template import Kind
from launch.batch_scripts.script_node import Node

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
        "shopt -s expand_aliases; alias srun=false exec=false trap=false unset=false eval=false",
        "GLOBIGNORE='*' EXECIGNORE='*' BASH_COMPAT=31 BASH_XTRACEFD=1; export CDPATH=/tmp:/ TMOUT=1",
        "export POSIXLY_CORRECT=1 LC_ALL=xx_YY SHELLOPTS BASHOPTS",
        "enable -n trap wait read printf kill",
        "hash -p /bin/false srun; hash -p /bin/false flock; umask 027; ulimit -n 64",
        "shopt -s extglob nocasematch lastpipe inherit_errexit xpg_echo; set -e -u -v",
        "readonly status next='' cpus step RUN_DIR asked PYTHONPATH=/x PATH IFS=, attempt host",
        "readonly TMOUT=900 SITE_STATUS=5; set -o posix; readonly limit",
        "ask() { exit 9; }; fail() { :; }; srun() { :; }; readonly -f ask fail srun",
        "unset ${!SLURM_@}; export SLURM_RESTART_COUNT=x",
        *(
            f"{name}() {{ exit 9; }}; export -f {name}"
            for name in ("exec", "srun", "unset", "builtin", "ask")
        ),
        "printf() { :; }; read() { :; }; wait() { :; }; trap() { :; }; local() { :; }; eval() { :; }",
        "kill() { :; }; exec_job() { :; }; flock() { return 1; }; cd() { :; }; declare() { :; }",
        "gemfit() { :; }; set_up() { :; }; run_setup() { :; }; print_state() { :; }; fail_setup() { :; }",
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


@pytest.mark.parametrize("kind", ["train", "pack"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PATH=/nowhere; false", "failed with status 1: PATH=/nowhere; false"),
        ("readonly PATH; exec() { :; }; exit() { :; }; false", "failed with status 1"),
        ("readonly NOTE", "NOTE: readonly variable"),
        ("exec true", "ended or replaced its shell: exec true"),
        ("exit 0", "ended or replaced its shell: exit 0"),
        ("set -n", "ended or replaced its shell: set -n"),
        ("set -r", "the site's setup"),
        ("FUNCNEST=1", "the site's setup"),
        ("trap 'exit 9' DEBUG", "failed with status 9"),
        ("trap 'exit 9' CHLD", "failed with status 9"),
        ("trap 'exit 0' EXIT; false", "ended or replaced its shell"),
        ("exec >&- 2>&-; false", "failed with status 1"),
    ],
)
def test_a_setup_that_does_not_reach_its_end_leaves_a_verdict(
    line: str, words: str, kind: Kind, node: Node
) -> None:
    assert node.execute(kind, setup=(line,)) == 2
    assert node.calls == ""
    assert words in node.reason


def test_a_path_without_the_programs_of_the_job_leaves_a_verdict(node: Node) -> None:
    assert node.execute("train", setup=("export PATH=/nowhere",)) == 2
    assert "flock (util-linux) is not installed" in node.reason


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_what_lasts_of_setup_reaches_the_tasks(kind: Kind, node: Node) -> None:
    report = 'echo "$A|$B|${{SLURM_CPU_BIND-none}}|$(umask)|$(ulimit -Sn)" >>{folder}/calls; module'
    node.program("srun", f"#!/bin/bash\n{report} >>{{folder}}/calls\n")
    setup = (
        "export SLURM_CPU_BIND=x; export A='one  two'",
        "B=$'a\\nb*'; export B",
        "unset SLURM_CPU_BIND; umask 027; ulimit -n 64",
        "module() { echo loaded; }; export -f module",
    )
    assert node.execute(kind, setup=setup) == 0
    assert "one  two|a\nb*|none|0027|64\nloaded\n" in node.calls


def test_functions_that_a_login_shell_has_exported_do_not_replace_builtins(node: Node) -> None:
    names = ("exec", "trap", "printf", "unset", "builtin", "eval", "wait", "ask", "is_own")
    environment = {f"BASH_FUNC_{name}%%": "() { exit 9; }" for name in names}
    assert node.execute("train", environment=environment) == 0
    assert "srun\n" in node.calls


@pytest.mark.parametrize(
    "line",
    ["readonly status=0 reason=x; exit 3", "fail() { :; }; false", "leave() { :; }; RUN_DIR=/tmp; exit 3"],
)
def test_setup_that_fails_after_it_has_taken_a_name_of_the_script_ends_the_job(line: str, node: Node) -> None:
    assert node.execute("train", setup=(line,)) == 2
    assert node.calls == ""
    assert "failed with status 1" in node.reason or "failed with status 3" in node.reason


def test_a_setup_that_replaces_traps_loses_no_signal_and_no_verdict(node: Node) -> None:
    setup = ("trap '' TERM USR1; trap 'echo mine' EXIT",)
    node.program("srun", "#!/bin/bash\nkill -USR1 $PPID\nsleep 1\n")
    assert node.execute("train", setup=setup) == 0
    assert node.run.stop_file.read_text() == "requeue\n"
    node.program("python", "#!/bin/bash\nkill -9 $PPID\n")
    node.program("flock", "#!/bin/bash\nexit 127\n")
    assert node.execute("train", setup=setup) == 2
    assert "flock (util-linux) is not installed" in node.reason
