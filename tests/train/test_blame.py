"""From a step whose loss is a spike to the conversation that caused it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gemfit.evaluate import blame
from gemfit.rundir import RunDir
from gemfit.schemas.metrics_history import read_history
from gemfit.schemas.pack_job import make_pack_job
from gemfit.summary.plan import plan_changes
from gemfit_launch.cli import main
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack
from rank_server import RankServer
from train.conftest import TINY

POISONED_LINE, LINES, STEPS = 17, 40, 40
SETTINGS = TINY | {
    "batch.global_batch_size": 4,
    "length.max_steps": STEPS,
    "data.validation_share": 0,
    "data.near_duplicates": "ignore",
}


def write_conversations(path: Path) -> Path:
    """The same short reply in each line, but noise in one of them."""
    rng = random.Random(3)
    lines = []
    for number in range(1, LINES + 1):
        noise = "".join(rng.choices("qxzjkvwy0123456789#%&", k=30))
        reply = noise if number == POISONED_LINE else "Yes, that is so, and it will stay so."
        messages = [
            {"role": "user", "content": f"Is it so, number {number}?"},
            {"role": "assistant", "content": reply},
        ]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, rank_server: RankServer) -> RunDir:
    folder = tmp_path_factory.mktemp("blame")
    request = Request(
        name="debug/cpu-tiny",
        settings=tuple(f"{name}={value}" for name, value in SETTINGS.items()),
        data=str(write_conversations(folder / "chat.jsonl")),
        strategy="single",
    )
    recipe, ranks = request.recipe(), Ranks(nproc=1, device="cpu")
    wanted = resolve_plan(recipe, ranks)
    ensure_pack(make_pack_job(recipe), Path(wanted.pack.folder), force=False, say=lambda line: None)
    made = RunDir.create(folder / "run", resolve_plan(recipe, ranks))
    assert rank_server.train(made) == 0, made.log(1).read_text()
    return made


@pytest.mark.dist
@pytest.mark.slow
def test_a_poisoned_conversation_is_named_with_its_line(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert blame.main([str(run.root), "--worst", "1", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)
    assert step["loss"] > step["usual_loss"]
    worst, second = step["conversations"][:2]
    assert worst["place"].endswith(f"chat.jsonl:{POISONED_LINE}")
    assert worst["loss"] > second["loss"] + 1
    assert step["model"] == f"step {STEPS}"
    assert blame.main([str(run.root), "--step", str(step["step"])]) == 0
    first_line, named = capsys.readouterr().out.splitlines()[:2]
    assert first_line.startswith(f"step {step['step']}: loss ")
    assert f"chat.jsonl:{POISONED_LINE}  (document {worst['document']}, row " in named
    # A step names all that its rows hold, and nothing else.
    rows = {row for one in step["conversations"] for row in one["rows"]}
    assert rows == set(blame.rows_of_steps(run)[step["step"]].tolist())


@pytest.mark.dist
@pytest.mark.slow
def test_a_resume_that_skips_the_poisoned_conversation_has_no_spike(
    run: RunDir, tmp_path: Path, rank_server: RankServer
) -> None:
    """Rows and, before the resume, losses are those of the whole run; the spike is gone."""
    (step,), (usual,) = blame.choose_steps(run, [], 1)
    (spike,) = blame.blame(run, [step], "latest", [usual])
    document, before = spike.conversations[0].document, spike.step - 1
    resumed = RunDir.create(tmp_path / "resumed", run.plan())
    assert rank_server.train(resumed, stop_at=before) == 75, resumed.log(1).read_text()
    done = CliRunner().invoke(main, ["resume", str(resumed.root), "--skip", str(document)])
    assert done.exit_code == 0, done.output + resumed.log(2).read_text()
    assert f"skip document {document} ({spike.conversations[0].place}): " in done.output
    assert f"skip_documents: was [], is [{document}]" in done.output
    with_it, without = (read_history(one.metrics_file).steps for one in (run, resumed))
    assert [one.loss for one in without[:before]] == pytest.approx([one.loss for one in with_it[:before]])
    assert [one.rows_digest for one in without] == [one.rows_digest for one in with_it]
    assert with_it[before].loss > usual + 0.2
    assert without[before].loss < usual + 0.05
    assert (without[before].trained_tokens or 0) < (with_it[before].trained_tokens or 0)
    summary = plan_changes(run.plan(), resumed.plan())
    assert f"skip_documents: was [], is [{document}]" in summary
    identity = json.loads((resumed.checkpoint(STEPS) / "manifest.json").read_text())["training"]
    assert identity["skip_documents"] == [document]


def test_a_falling_loss_has_no_spike() -> None:
    losses = np.linspace(6.0, 3.0, 30)
    around = [blame._median_around(losses, place) for place in range(30)]
    assert around == pytest.approx(losses.tolist())


@pytest.mark.dist
@pytest.mark.slow
def test_a_step_that_is_not_recorded_is_refused(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert blame.main([str(run.root), "--step", "9999"]) == 2
    assert "--step 9999: is not recorded; " in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--step", "1", "--worst", "1"]])
def test_either_a_step_or_the_worst_is_asked_for(tmp_path: Path, options: list[str]) -> None:
    done = CliRunner().invoke(main, ["data", "blame", str(tmp_path), *options])
    assert done.exit_code == 2
    assert "give either --step or --worst" in done.output
