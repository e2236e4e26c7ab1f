"""The smallest recipe, plan and conversations that the launcher takes, and a command line to call."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import Losses, PackManifest, SplitCounts
from gemfit.schemas.pack_job import PackJob, make_pack_job, pack_folder
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_training import LengthRecipe
from gemfit_launch.cli import main
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request
from launch.fake_login import ASKED, FAKE, SITE, FakeSlurm

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def cli() -> Cli:
    """Call ``gemfit`` with these arguments, in this process."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def recipe() -> Recipe:
    return Request(name="debug/cpu-tiny").recipe()


@pytest.fixture
def plan(recipe: Recipe) -> Plan:
    """Two CPU ranks, ten steps of sixteen rows."""
    return make_plan(
        recipe.model_copy(update={"length": LengthRecipe(num_epochs=None, max_steps=10)}),
        topology=Topology(nodes=1, ranks_per_node=2, device="cpu"),
        pack=PackReference(fingerprint="f" * 32, folder="/nowhere"),
        rows=100,
        rows_are_packed=True,
    )


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    """A run that has not begun, in a folder whose name a shell would take amiss."""
    return RunDir.create(tmp_path / "run; rm -rf ~", plan)


@pytest.fixture
def hand_over(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Record the modules that these verbs would have run; each returns the given exit code."""

    def record_calls(*verbs: str, ends: ExitCode = ExitCode.FAILED) -> Calls:
        made: Calls = []

        def record(module: str, arguments: list[str]) -> ExitCode:
            made.append((module, arguments))
            return ends

        for verb in verbs:
            monkeypatch.setattr(f"gemfit_launch.verbs.{verb}.run_module", record)
            monkeypatch.setattr(f"gemfit_launch.verbs.{verb}.require_train_extra", lambda verb: None)
        return made

    return record_calls


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Forty short conversations."""
    path = tmp_path / "conversations.jsonl"
    messages = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Very well."}]
    path.write_text(40 * (json.dumps({"messages": messages}) + "\n"))
    return path


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is packed when a test begins."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("GEMFIT_CACHE", str(cache))
    return cache


def write_pack(job: PackJob, *, rows: int = 90) -> PackManifest:
    """The manifest that a builder would leave, without the rows."""
    counts = SplitCounts(
        rows=rows, conversations=40, documents=40, tokens=rows * 500, trained_tokens=rows * 490
    )
    nothing = SplitCounts(rows=0, conversations=0, documents=0, tokens=0, trained_tokens=0)
    manifest = PackManifest(
        fingerprint=job.fingerprint,
        tokenizer_digest="t" * 32,
        format=job.data.format,
        eos=job.data.eos,
        loss_on=job.data.loss_on,
        seq_len=job.data.seq_len,
        overlong=job.data.overlong,
        pad_id=0,
        bos_id=2,
        eos_id=1,
        splits={"train": counts, "validation": nothing},
        losses=Losses(**(dict.fromkeys(Losses.model_fields, 0) | {"lines_read": 40})),
        flow={},
        roles={},
        pii={},
        sources=(),
        inputs=(),
        engine="tokenizers",
        files=(),
        versions={},
    )
    folder = pack_folder(job.fingerprint)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


@pytest.fixture
def packed() -> Callable[..., PackManifest]:
    """Pretend that the builder has run for a job."""
    return write_pack


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A login node, with the working folder in a folder of the test."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for command in ("sbatch", "squeue", "scancel", "scontrol"):
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(FAKE), command])} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text(SITE)
    return FakeSlurm(folder)


@pytest.fixture
def submitted(conversations: Path, packed: Callable[..., PackManifest], cli: Cli, slurm: FakeSlurm) -> RunDir:
    """A run on 2 nodes, packed before, that waits as job 100."""
    packed(make_pack_job(Request(name="debug/cpu-tiny", data=str(conversations)).recipe()))
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 0, result.output
    return RunDir(Path("runs/first"))
