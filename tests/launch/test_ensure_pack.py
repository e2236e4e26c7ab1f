"""Building a pack once, and only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import PackJob, make_pack_job, pack_folder
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack

Packed = Callable[..., PackManifest]


class Builder:
    """Stands in for ``python -m gemfit.data``: leaves a manifest and remembers what it was asked."""

    def __init__(self, manifest: PackManifest | None, code: ExitCode = ExitCode.DONE) -> None:
        self.manifest = manifest
        self.code = code
        self.jobs: list[PackJob] = []
        self.options: list[str] = []

    def __call__(self, module: str, arguments: Sequence[str]) -> ExitCode:
        job_file, option, folder, *self.options = arguments
        assert (module, option) == ("gemfit.data", "--out")
        self.jobs.append(PackJob.read(Path(job_file)))
        if self.manifest is not None:
            Path(folder).mkdir()
            Path(folder, "manifest.json").write_text(self.manifest.to_json())
        return self.code


@pytest.fixture
def job(conversations: Path) -> PackJob:
    return make_pack_job(Request(name="debug/cpu-tiny", data=str(conversations)).recipe())


@pytest.fixture
def builder(job: PackJob, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> Builder:
    manifest = packed(job, rows=77)
    folder = pack_folder(job.fingerprint)
    (folder / "manifest.json").unlink()
    folder.rmdir()
    made = Builder(manifest)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.run_module", made)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.require_train_extra", lambda verb: None)
    return made


def silent(line: str) -> None:
    """Discards the message."""


def test_the_builder_gets_the_job_and_is_asked_once(job: PackJob, builder: Builder) -> None:
    first = ensure_pack(job, pack_folder(job.fingerprint), force=False, say=silent)
    second = ensure_pack(job, pack_folder(job.fingerprint), force=False, say=silent)
    assert first == second == builder.manifest
    assert builder.jobs == [job]


def test_force_builds_again_and_leaves_one_folder(job: PackJob, builder: Builder) -> None:
    ensure_pack(job, pack_folder(job.fingerprint), force=False, say=silent)
    ensure_pack(job, pack_folder(job.fingerprint), force=True, say=silent)
    assert len(builder.jobs) == 2
    folder = pack_folder(job.fingerprint)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_builder_that_fails_leaves_the_old_pack_when_forced(job: PackJob, builder: Builder) -> None:
    ensure_pack(job, pack_folder(job.fingerprint), force=False, say=silent)
    builder.manifest, builder.code = None, ExitCode.USER_ERROR
    with pytest.raises(PackFailed):
        ensure_pack(job, pack_folder(job.fingerprint), force=True, say=silent)
    assert (pack_folder(job.fingerprint) / "manifest.json").is_file()


def test_pack_exits_as_the_builder_did(
    builder: Builder, conversations: Path, cli: Callable[..., Result]
) -> None:
    builder.manifest, builder.code = None, ExitCode.USER_ERROR
    assert cli("pack", "debug/cpu-tiny", "--data", conversations).exit_code == 2


def test_pack_shows_what_the_manifest_says(
    builder: Builder, conversations: Path, cli: Callable[..., Result]
) -> None:
    result = cli("pack", "debug/cpu-tiny", "--data", conversations)
    assert result.exit_code == 0
    assert "train" in result.stdout
    assert "77" in result.stdout
    assert builder.manifest is not None
    as_json = cli("pack", "debug/cpu-tiny", "--data", conversations, "--json")
    assert PackManifest.model_validate_json(as_json.stdout) == builder.manifest
    assert "already packed" in as_json.stderr


def test_pack_without_data_says_how_to_name_it(cli: Callable[..., Result]) -> None:
    result = cli("pack", "gemma3/1b-reference")
    assert result.exit_code == 2
    assert "pass --data FILE.jsonl" in result.stderr


def test_pack_hands_on_how_to_work(builder: Builder, conversations: Path, cli: Callable[..., Result]) -> None:
    assert cli("pack", "debug/cpu-tiny", "--data", conversations, "--workers", 3, "--merge").exit_code == 0
    assert builder.options == ["--workers", "3", "--merge"]
    assert (
        cli("pack", "debug/cpu-tiny", "--data", conversations, "--force", "--engine", "tokenizers").exit_code
        == 0
    )
    assert builder.options == ["--engine", "tokenizers"]


def test_a_shard_makes_parts_and_no_pack(
    builder: Builder, conversations: Path, cli: Callable[..., Result]
) -> None:
    builder.manifest = None
    result = cli("pack", "debug/cpu-tiny", "--data", conversations, "--shard", "2/8")
    assert (result.exit_code, result.stdout) == (0, "")
    assert builder.options == ["--shard", "2/8"]


@pytest.mark.parametrize("shard", ["0/8", "9/8", "2", "2/", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_refused(shard: str, conversations: Path, cli: Callable[..., Result]) -> None:
    result = cli("pack", "debug/cpu-tiny", "--data", conversations, "--shard", shard)
    assert result.exit_code == 2
    assert "write i/n, with i from 1 to n" in result.stderr


@pytest.mark.parametrize("other", ["--merge", "--force", "--json"])
def test_a_shard_has_no_result_to_show(other: str, conversations: Path, cli: Callable[..., Result]) -> None:
    result = cli("pack", "debug/cpu-tiny", "--data", conversations, "--shard", "1/2", other)
    assert result.exit_code == 2
    assert "--shard builds one shard only" in result.stderr
