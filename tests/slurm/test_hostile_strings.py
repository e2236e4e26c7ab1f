"""Fifty hostile strings through the real sbatch: each arrives unchanged, or is refused; none is an option."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import PackReference, Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.slurm.submit.template import render
from realslurm import Cluster, wait_until

pytestmark = pytest.mark.slurm

PRINTABLE = [
    "plain",
    "two words",
    "  blanks around  ",
    "it's",
    "'quoted'",
    'say "hi"',
    '"',
    "'",
    "''\"\"",
    "back\\slash",
    "end\\",
    "\\",
    "\\\\",
    "\\n",
    "a\\'b",
    'a\\"b',
    "$HOME",
    "${HOME}",
    "$(id)",
    "`id`",
    "$((1+1))",
    "a;id",
    "a&id",
    "a|id",
    "a>out",
    "a<in",
    "#comment",
    "a #b",
    "a#b",
    "x --nodes=3",
    '" --nodes=3 "',
    "' --nodes=3 '",
    '\\" --nodes=3',
    "--nodes=3",
    "-N3",
    "=",
    "a=b",
    "a,b",
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "~",
    "!!",
    "%j",
    "%%",
    "50% done",
    "ü€漢",
    "(parens)",
    "# <<< values",
]
UNPRINTABLE = ["a\nb", "a\n#SBATCH --nodes=3", "a\rb", "a\tb", "a\0b", "\x1b[31m", "a\x7fb"]
assert len(PRINTABLE) == len(set(PRINTABLE)) == 50

REPORT = """
gemfit_export_env
printf '%s\\0' "$NOTE" "$RUN_DIR" "$SLURM_JOB_NAME" "$PWD" >"$RUN_DIR/seen"
"""


@dataclass(frozen=True)
class Sent:
    """A job with a hostile string in its comment, its name, its folders and its environment."""

    text: str
    root: Path
    job: int


def script(text: str, root: Path) -> str:
    """The head of a job script, and a body that writes down what it sees."""
    site = Site(name="hostile", partition="low", gpus_per_node=0, env={"NOTE": text}, extra={"comment": text})
    whole = render("train", _plan(site), RunDir(root), root)
    # The string itself may look like the mark; the true one is the last.
    return whole[: whole.rindex("# <<< values\n")] + REPORT


@pytest.fixture(scope="module")
def sent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sent]]:
    """Every string as a job, all of them over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        patch.setenv("SBATCH_PARTITION", "high")
        patch.setenv("SBATCH_COMMENT", "from the environment")
        folder = tmp_path_factory.mktemp("hostile")
        jobs = {text: _send(text, folder / str(number)) for number, text in enumerate(PRINTABLE)}
        wait_until(lambda: all((sent.root / "seen").is_file() for sent in jobs.values()), 120)
        yield jobs


def _send(text: str, folder: Path) -> Sent:
    # A run folder cannot hold a backslash; the other places can.
    root = folder / f"run {text}".replace("\\", "_")
    run = RunDir(root)
    JobFiles(run).folder.mkdir(parents=True)
    path = JobFiles(run).write_script("train", script(text, root))
    return Sent(text, root, commands.submit(path, JobFiles(run).job_name("train")))


@pytest.mark.parametrize("text", PRINTABLE)
def test_a_hostile_string_arrives_unchanged_and_changes_no_other_option(
    text: str, sent: dict[str, Sent], cluster: Cluster
) -> None:
    job = sent[text]
    note, run_dir, name, folder = (job.root / "seen").read_text().split("\0")[:-1]
    assert (note, run_dir, name, folder) == (text, str(job.root), job.root.name, str(job.root))

    def shown(field: str) -> str:
        return cluster.call("squeue", "--noheader", "--states=all", f"--jobs={job.job}", f"--format={field}")

    assert shown("%k") == f"{text}\n"
    assert shown("%P %D").split() == ["low", "1"]
    files = JobFiles(RunDir(job.root))
    assert files.log("train", job.job).is_file()
    assert commands.jobs([job.job])[job.job].name == files.job_name("train")


@pytest.mark.parametrize("text", UNPRINTABLE)
def test_an_unprintable_string_is_refused_before_sbatch_sees_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remove it"):
        script(text, tmp_path)


def _plan(site: Site) -> Plan:
    return make_plan(
        Request(name="debug/cpu-tiny").recipe(),
        topology=ranks_at(site, 1),
        pack=PackReference(fingerprint="f" * 32, folder="/nowhere"),
        rows=100,
        rows_are_packed=True,
        site=site,
    )
