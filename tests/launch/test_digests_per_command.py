"""A command reads the content of each input file once, however many plans it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemfit.core import file_digest
from gemfit.errors import ExitCode
from gemfit.schemas import source_file
from gemfit.schemas.pack_job import PackJob
from gemfit_launch.bench import runner
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is digested from now on, in a process that has digested none."""
    counts: Counter[str] = Counter()
    digest = file_digest.file_xxh3

    def count(path: Path) -> str:
        counts[path.name] += 1
        return digest(path)

    monkeypatch.setattr(file_digest, "file_xxh3", count)
    source_file._xxh3.cache_clear()
    return counts


def test_submitting_a_sweep_of_six_digests_once(
    conversations: Path, cli: Cli, slurm: FakeSlurm, reads: Counter[str]
) -> None:
    result = cli("submit", *ASKED, "--run", "runs/six", "--sweep", "seed=1,2,3,4,5,6", "--json")
    assert result.exit_code == 0, result.output
    assert len(slurm.calls("sbatch")) == 2 * 6  # to pack and to train
    assert reads == {conversations.name: 1}


def test_a_run_that_packs_digests_once(
    conversations: Path,
    cli: Cli,
    packed: Callable[..., Any],
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def build(module: str, arguments: list[str]) -> ExitCode:
        packed(PackJob.read(Path(arguments[0])))
        return ExitCode.DONE

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.run_module", build)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.require_train_extra", lambda verb: None)
    monkeypatch.setattr("gemfit_launch.verbs.run.require_train_extra", lambda verb: None)
    monkeypatch.setattr("gemfit_launch.verbs.run.train", lambda *_: ExitCode.DONE)
    result = cli("run", "debug/cpu-tiny", "--data", conversations, "--device", "cpu", "--run", "runs/a")
    assert result.exit_code == 0, result.output
    assert reads == {conversations.name: 1}


def test_a_benchmark_of_two_variants_digests_once(
    conversations: Path,
    cli: Cli,
    packed: Callable[..., Any],
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gemfit_launch.verbs.bench.require_train_extra", lambda verb: None)
    monkeypatch.setattr(runner, "ensure_pack", lambda job, folder, **_: packed(job))
    monkeypatch.setattr("gemfit_launch.verbs.bench.measure_all", lambda *_, **__: [])
    bench = ("bench", "debug/cpu-tiny", "--data", conversations, "--steps", 4)
    result = cli(*bench, "--vary", "strategy=ddp,fsdp2", "--nproc", 2, "--json")
    assert result.exit_code == 0, result.output
    assert reads == {conversations.name: 1}


def test_a_file_that_has_changed_is_digested_again(tmp_path: Path, reads: Counter[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("one")
    before = source_file.digest_files([path, path])
    path.write_text("three")
    after = source_file.digest_file(path)
    assert before[0] == before[1] != after
    assert reads == {path.name: 2}
