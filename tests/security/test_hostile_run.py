"""A run folder from a stranger with twelve attacks: none runs or writes anything outside, each is named."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from markupsafe import Markup

from data.conftest import random_conversations, sentence
from data.handmade import handmade
from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import MANIFEST, MANIFEST_DIGEST, digest_files, manifest_digest
from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.data.inspect.__main__ import main as inspect_pack
from gemfit.data.render.template_segments import chat_template
from gemfit.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from gemfit.errors import ExitCode, UserError
from gemfit.export.export import main as export
from gemfit.publish.push import main as push
from gemfit.publish.send_spool import _refuse_damaged
from gemfit.report.load import load_run
from gemfit.report.page import make_page, render
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.manifest import CheckpointManifest, FileDigest
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.plan import PackReference, Topology
from gemfit.schemas.report_facts import RunFacts
from gemfit.tracking.__main__ import main as sync
from gemfit.tracking.tracker import TrackedRun
from gemfit.tracking.tracker_state import TrackerState
from gemfit.tracking.wandb_run import open_wandb
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, write
from gemfit.upload.spool import Push, ReadyPush, Spool
from gemfit_launch.cli import main
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.replan import replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.follow_logs import printable_log
from gemfit_launch.runs.local import environment

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
SHOWN = "⟨U+001B⟩"
HTML = "<script>alert(1)</script>"
STEP = 2
SECRET = b"the private key"


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self._command = f"touch {victim}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step and a checkpoint, and its pack."""
    return make_stranger(tmp_path_factory.mktemp("stranger"))


def make_stranger(root: Path) -> Path:
    """Write ``root/run`` and ``root/pack``; returns ``root``."""
    rng = random.Random(1)
    tokenizer = train_tokenizer([sentence(rng, 12) + "\nuser assistant system" for _ in range(200)], 400)
    handmade(tokenizer, random_conversations(6)).write(root / "pack")
    plan = make_plan(
        Request(name="debug/cpu-tiny").recipe(),
        topology=Topology(nodes=1, ranks_per_node=1, device="cpu"),
        pack=PackReference(fingerprint="p" * 32, folder=str(root / "pack")),
        rows=100,
        rows_are_packed=True,
    )
    run = RunDir.create(root / "run", plan)
    made = StepRecord(
        attempt=1,
        step=1,
        epoch=0.0,
        loss=1.0,
        learning_rate=0.1,
        grad_norm=None,
        tokens_per_second=1.0,
        time=1.0,
        rows_digest="",
    )
    run.metrics_file.write_text(made.model_dump_json() + "\n")
    run.begin_attempt()
    staging = store.begin(run, STEP, 1, bytes_needed=1)
    write({f"{WEIGHT_PREFIX}w": torch.zeros(2)}, staging)
    manifest = CheckpointManifest(
        step=STEP,
        cursor_row=0,
        world_size=1,
        strategy="single",
        plan_digest=plan.digest,
        training=plan.training_identity(),
        attempt=1,
        files=tuple(digest_files(staging, sorted(staging.iterdir()))),
    )
    store.commit(run, staging, manifest, keep=9)
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=1, reason="asked to stop"))
    return root


@pytest.fixture
def run(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    made = RunDir(tmp_path / "run")
    change(made.plan_file, lambda plan: plan["pack"].update(folder=str(tmp_path / "pack")))
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What an attack makes or changes."""
    return tmp_path / "victim"


def change(path: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def plant_pickle(run: RunDir, victim: Path) -> None:
    """In the metadata of the checkpoint, with manifests that match."""
    folder = run.checkpoint(STEP)
    (folder / ".metadata").write_bytes(pickle.dumps(Command(victim)))
    manifest = CheckpointManifest.read(folder / MANIFEST)
    files = digest_files(folder, [folder / file.path for file in manifest.files])
    text = manifest.model_copy(update={"files": tuple(files)}).to_json().encode()
    (folder / MANIFEST).write_bytes(text)
    (folder / MANIFEST_DIGEST).write_bytes(manifest_digest(text))


def plant_spool(run: RunDir, name: str) -> ReadyPush:
    """A push that is ready, of a file called ``name`` with the content of ``victim``."""
    files = Spool.files(Spool.of(run).folder(STEP))
    files.mkdir(parents=True)
    file = FileDigest.model_construct(path=name, bytes=len(SECRET), xxh3="0" * 32)
    pushed = Push(
        step=STEP,
        repo="user/name",
        private=True,
        branch="main",
        tag=False,
        merge_adapter=True,
        multimodal=False,
        message="Step 2",
    )
    ready = ReadyPush.model_construct(push=pushed, files=(file,))
    Spool.manifest_file(files.parent).write_text(ready.to_json())
    return ready


def test_1_a_pickle_in_the_metadata_of_a_checkpoint(
    run: RunDir, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_pickle(run, victim)
    assert cli("checkpoints", run.root).exit_code == 0
    assert export([str(run.root), "--out", str(run.export)]) == 2
    assert "names posix.system" in capsys.readouterr().err
    assert not victim.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", ["sh", "-c", "touch VICTIM"]),
        ("env", {"LD_PRELOAD": "/evil.so", "PYTHONSTARTUP": "/evil.py", "NUMBA_CACHE_DIR": "/evil"}),
        ("accelerate", {"main_training_function": "evil"}),
    ],
)
def test_2_3_command_and_environment_of_the_plan_are_named_and_not_used(
    run: RunDir, field: str, value: Any
) -> None:
    own = getattr(run.plan(), field)
    change(run.plan_file, lambda plan: plan.update({field: value}))
    result = cli("resume", run.root, "--dry-run")
    assert result.exit_code == 0
    assert f"its {field} is not what gemfit makes of its recipe" in result.stderr
    replanned = replan(run.plan(), Request(name=""), Ranks(), "plan.json")
    assert getattr(replanned, field) == own
    assert not environment(replanned, {}, attempt=1, port=1).keys() & {"LD_PRELOAD", "NUMBA_CACHE_DIR"}


@pytest.mark.parametrize(
    "place", ["metrics.jsonl", "lock", "logs", "logs/attempt-2.log", "checkpoints", "hub", "trackers/lock"]
)
def test_4_a_link_out_of_the_folder_is_not_followed(run: RunDir, victim: Path, place: str) -> None:
    link, target = run.root / place, victim if "." in place or "lock" in place else run.root.parent / "pack"
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    for verb in ("resume", "checkpoints", "sync", "report", "export", "eval", "logs", "stop", "push"):
        result = cli(verb, run.root)
        assert result.exit_code == 2, verb
        assert f"{place} is a link to {target}, out of the folder" in result.stderr
    assert not victim.exists()


def test_4_a_link_inside_of_the_folder_and_a_link_to_it_are_fine(run: RunDir, tmp_path: Path) -> None:
    (run.root / "newest").symlink_to(run.checkpoint(STEP))
    (tmp_path / "link").symlink_to(run.root)
    assert cli("checkpoints", tmp_path / "link").exit_code == 0


def test_4_a_pipe_in_place_of_a_file_is_named(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(run.stop_file)
    assert "stop is a pipe, socket or device" in cli("status", run.root).stderr
    monkeypatch.chdir(run.root.parent)
    shutil.copytree(run.root, "runs/good", ignore=shutil.ignore_patterns("stop"))
    run.root.rename("runs/bad")
    shown = cli("status", "--json")
    states = {Path(one["run"]).name: one["state"] for one in json.loads(shown.stdout)}
    assert states == {"bad": "damaged", "good": "stopped"}


def test_5_a_chat_template_that_leaves_its_sandbox(run: RunDir, victim: Path) -> None:
    tokenizer = load_tokenizer(str(run.root.parent / "pack" / "tokenizer"))
    tokenizer.chat_template = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(victim) + "') }}{{ messages[0].content }}"
    )
    with pytest.raises(UserError, match=r"template cannot be followed: .*unsafe"):
        chat_template(tokenizer)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["../../../../victim", "/etc/passwd", "a//b", "a/../../b", "\x1b[2J", ""])
def test_6_a_spool_manifest_that_names_files_elsewhere(
    run: RunDir, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_spool(run, name)
    assert push(["--spooled", str(run.root)]) == 2
    shown = capsys.readouterr().err
    assert "manifest.json: files.0.path" in shown
    assert "\x1b" not in shown


def test_6_a_spooled_file_that_is_a_link(run: RunDir, victim: Path) -> None:
    ready = plant_spool(run, "model.safetensors")
    victim.write_bytes(SECRET)
    (Spool.files(Spool.of(run).folder(STEP)) / "model.safetensors").symlink_to(victim)
    with pytest.raises(UserError, match=r"model\.safetensors is a link to .*victim, out of the folder"):
        _refuse_damaged(Spool.of(run), ready)


def test_7_a_pack_with_a_pickle_and_one_with_paths(
    run: RunDir, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = run.root.parent / "pack"
    (pack / "train" / "batches.npy").write_bytes(pickle.dumps(Command(victim)))
    assert inspect_pack(["inspect", str(pack)]) == 2
    assert "batches.npy: cannot be read" in capsys.readouterr().err
    change(pack / "manifest.json", lambda value: value["files"][0].update(path="../victim"))
    assert inspect_pack(["inspect", str(pack)]) == 2
    assert "files.0.path" in capsys.readouterr().err
    assert not victim.exists()


def test_8_compiled_code_in_the_folder_is_not_looked_for(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gemfit.data.compiled import compiled_folder  # noqa: PLC0415

    (run.root / "numba").mkdir()
    (run.root / "__pycache__").mkdir()
    monkeypatch.chdir(run.root)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiled_folder.cache_clear()
    try:
        assert compiled_folder().is_relative_to(tmp_path / "cache")
    finally:
        compiled_folder.cache_clear()


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan["recipe"].update(model={"id": 7}),
        lambda plan: plan["recipe"].update(evil="x"),
        lambda plan: plan["recipe"]["hub"].update(repo="a/b; id", push="end"),
        lambda plan: plan.update(site={"name": "x", "env": {"A": "$(id)"}, "setup": 3}),
        lambda plan: plan.clear(),
    ],
)
def test_9_a_plan_of_another_shape_is_named(run: RunDir, edit: Callable[[Any], object]) -> None:
    change(run.plan_file, edit)
    for verb in (("resume", run.root, "--dry-run"), ("data", "inspect", run.root)):
        result = cli(*verb)
        assert result.exit_code == 2
        assert str(run.plan_file) in result.stderr


def test_10_names_that_are_options_paths_and_lines(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("step-evil", "step-00000001\n--help", "replaced-x", f"step-{ESCAPE}"):
        (run.checkpoints / name).mkdir()
    (run.spool / "step-evil").mkdir(parents=True)
    found = cli("checkpoints", run.root, "--json")
    assert [one["step"] for one in json.loads(found.stdout)] == [STEP]
    assert run.spooled_steps == []
    handed: list[str] = []

    def record(module: str, argv: list[str]) -> ExitCode:
        handed.append(argv[1])
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.verbs.data.run_module", record)
    monkeypatch.chdir(tmp_path)
    Path("pack").rename("--help")
    change(run.plan_file, lambda plan: plan["pack"].update(folder="--help"))
    cli("data", "inspect", run.root)
    run.root.rename("-x")
    cli("data", "inspect", "--", "-x")
    assert handed == 2 * [str(tmp_path / "--help")]


def test_11_html_in_texts_of_the_run_is_text_in_the_report(run: RunDir) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=1, step=1, reason=HTML + ESCAPE))
    change(run.plan_file, lambda plan: plan["recipe"].update(description=HTML))
    page = render(make_page([load_run(run.root, RunFacts(), with_pack=False)]), lambda chart: Markup(""))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_12_escapes_do_not_reach_the_terminal(run: RunDir) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=1, step=1, reason=ESCAPE))
    shown = cli("status", run.root)
    assert SHOWN in shown.stdout
    change(run.plan_file, lambda plan: plan.update({ESCAPE: 1}))
    refused = cli("resume", run.root)
    assert SHOWN in refused.stderr
    for text in (shown.stdout, shown.stderr, refused.stdout, refused.stderr):
        assert not set(ESCAPE) & set("\x1b\x07\x9b\u202e") & set(text)
    assert printable_log(f"a{ESCAPE}\r\n".encode()).startswith(b"a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m")


def test_12_what_a_pack_says_of_skipped_documents_is_escaped(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit_launch.verbs.resume.ask_module", lambda name, argv: f"{ESCAPE}:{argv[0]}\n")
    shown = cli("resume", run.root, "--skip", 1, "--dry-run").stdout
    assert shown.startswith(SHOWN)
    assert "\x1b" not in shown


@pytest.mark.parametrize("number", ["9" * 30, "1000000000", "-3", "9" * 6000, "x"])
def test_a_number_of_attempts_that_would_be_counted_for_ever_is_damage(run: RunDir, number: str) -> None:
    run.attempt_file.write_text(number)
    assert run.attempt == 1
    assert cli("logs", run.root).exit_code == 0


@pytest.mark.parametrize("identity", ["../../victim", ".", "a/b", "", "x" * 200])
def test_an_id_of_a_tracker_that_is_a_path_is_refused(
    run: RunDir, identity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.trackers_file.write_text(json.dumps({"id": identity}))
    assert sync([str(run.root), "--to", "mlflow"]) == 75
    assert "trackers.json: id: String should match pattern" in capsys.readouterr().out


def test_a_link_deep_in_the_files_of_a_tracker(run: RunDir, victim: Path) -> None:
    deep = run.trackers / "mlflow" / "0" / "a"
    deep.mkdir(parents=True)
    (deep / "loss").symlink_to(victim)
    with pytest.raises(UserError, match="loss is a link to"):
        refuse_foreign_files(run.trackers / "mlflow")


def test_settings_of_wandb_in_the_folder_do_not_choose_who_gets_the_key(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.root / "wandb").mkdir()
    (run.root / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    monkeypatch.chdir(run.root)
    tracked = TrackedRun(run, run.plan(), TrackerState(id="a"))
    with pytest.raises(UserError, match="would take its server from this file"):
        open_wandb(tracked)
