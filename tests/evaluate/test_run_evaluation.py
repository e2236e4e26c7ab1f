"""An evaluation of a small run: its figures on one rank and on two, and what is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from evaluate.conftest import FULL
from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import open_pack
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.errors import ExitCode, UserError
from gemfit.evaluate import harness, run_evaluation, sharded, validation
from gemfit.evaluate.__main__ import main
from gemfit.evaluate.harness import task_scores
from gemfit.evaluate.models import find_models, for_generation, open_sharded
from gemfit.evaluate.run_evaluation import EvaluationSettings, evaluate, make_inputs
from gemfit.evaluate.scores import Resampling, depth_scores, role_scores, score
from gemfit.evaluate.validation import TurnSums
from gemfit.export.weights import Weights
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import Evaluation
from gemfit.schemas.recipe_model import Lora
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.data.batches import ValidationBatches
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.validation_loop import evaluate_rows
from gemfit.train.sequence_group import SequenceGroup
from train.trained import IDS, Trained, train

QUICK = EvaluationSettings(samples=2, max_new_tokens=3, resamples=200)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A copy, because an evaluation writes into the run."""
    root = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained.run.root, root)
    return RunDir(root)


@pytest.fixture(scope="module")
def found(run: RunDir) -> Evaluation:
    return evaluate(run, find_models(run, ["base", "latest"]), QUICK, CPU)


def test_the_loss_is_the_one_that_training_measures(trained: Trained, found: Evaluation) -> None:
    plan = trained.run.plan()
    rows = open_pack(Path(plan.pack.folder), "validation")
    batches = ValidationBatches(plan, rows, 0, pad_id(trained.tokenizer))
    whole = evaluate_rows(trained.model, batches, stop=Stop(trained.run, None, CPU), step=2, device=CPU)
    assert whole is not None
    overall = found.models[1].overall
    assert overall.loss.value == pytest.approx(whole.loss, rel=1e-6)
    assert overall.token_accuracy.value == pytest.approx(whole.token_accuracy)
    assert overall.perplexity.value == pytest.approx(whole.perplexity, rel=1e-5)
    assert overall.tokens == whole.tokens


def test_roles_and_turns_add_up_to_the_whole(found: Evaluation) -> None:
    for model in found.models:
        assert set(model.roles) == {"system", "user", "assistant"}
        assert sum(part.tokens for part in model.roles.values()) == model.overall.tokens
        summed = sum(part.tokens * part.loss.value for part in model.roles.values())
        assert summed == pytest.approx(model.overall.tokens * model.overall.loss.value)
        assert list(model.depths) == ["1", "2"]
        without_system = model.overall.tokens - model.roles["system"].tokens
        assert sum(part.tokens for part in model.depths.values()) == without_system


def test_a_difference_is_that_of_the_losses_and_its_interval_is_narrower(found: Evaluation) -> None:
    base, latest = (model.overall.loss for model in found.models)
    difference = found.differences["step 2"]
    assert difference.value == pytest.approx(latest.value - base.value)
    assert difference.low <= difference.value <= difference.high
    assert list(found.differences) == ["step 2"]


def test_samples_have_the_same_prompts_for_every_model(found: Evaluation) -> None:
    base, latest = (model.samples for model in found.models)
    assert len(base) == 2
    assert [sample.prompt for sample in base] == [sample.prompt for sample in latest]
    assert {sample.reference for sample in base} == {"Go on."}


def test_a_later_model_joins_the_others_and_replaces_one_of_its_name(
    run: RunDir, found: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    again = evaluate(run, find_models(run, ["latest"]), QUICK, CPU)
    assert again.models == found.models
    assert again.differences == found.differences
    assert Evaluation.read(run.evaluation_file) == again
    assert "dropped" not in caplog.text


def test_figures_of_other_settings_are_not_mixed_and_that_is_said(
    run: RunDir, found: Evaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = RunDir(tmp_path / "run")
    shutil.copytree(run.root, copied.root)
    other = evaluate(
        copied, find_models(copied, ["base"]), EvaluationSettings(samples=0, rows=2, resamples=200), CPU
    )
    assert [model.name for model in other.models] == ["base"]
    assert other.models[0].overall.tokens < found.models[0].overall.tokens
    assert "earlier figures of base, step 2 are dropped" in caplog.text


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full fine-tune", "adapters"])
def test_two_ranks_that_share_one_model_and_its_rows_find_what_one_finds(
    lora: Lora | None, run: RunDir, found: Evaluation, tmp_path: Path
) -> None:
    if lora is not None:
        run = train(tmp_path, FULL.model_copy(update={"lora": lora})).run
        found = evaluate(run, find_models(run, ["base", "latest"]), QUICK, CPU)
    copied = copy(run, tmp_path / "shared")
    share_rows(copied, 2)
    options = ["--nproc", "2", "--device", "cpu", "--samples", "2", "--max-new-tokens", "3"]
    assert main([str(copied.root), *options]) == ExitCode.DONE
    both = Evaluation.read(copied.evaluation_file)
    assert both.world_size == 2
    for one, two in zip(found.models, both.models, strict=True):
        assert two.overall.tokens == one.overall.tokens
        assert two.overall.loss.value == pytest.approx(one.overall.loss.value, rel=1e-6)
        assert two.roles.keys() == one.roles.keys()
        assert two.samples == one.samples


def test_ranks_share_the_rows_that_training_shared(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``train/sequence_cases.py`` compares the sums that they find with those of whole rows."""
    copied = copy(run, tmp_path)
    share_rows(copied, 2)
    group, used = SequenceGroup(None, 1, 2), []
    monkeypatch.setattr(validation, "world_size", lambda: 4)
    monkeypatch.setattr(validation, "make_sequence_group", lambda degree: {2: group}[degree])
    monkeypatch.setattr(run_evaluation, "is_sharded", lambda plan: False)

    def turn_sums(*inputs: Any, sequence: SequenceGroup, **options: Any) -> TurnSums:
        used.append(sequence)
        return validation.turn_sums(*inputs, **options)

    monkeypatch.setattr(run_evaluation, "turn_sums", turn_sums)
    monkeypatch.setattr(validation, "rank", lambda: 0)
    evaluate(copied, find_models(copied, ["base"]), QUICK, CPU)
    assert used == [group]


def share_rows(run: RunDir, degree: int) -> None:
    """Let ``run`` have been trained by FSDP2 with ranks that shared each row."""
    plan = json.loads(run.plan_file.read_text())
    plan["recipe"]["strategy"] = {"kind": "fsdp2", "sequence_parallel": degree}
    plan["batch"]["sequence_parallel"] = degree
    run.plan_file.write_text(json.dumps(plan))


def test_ranks_with_a_model_each_find_what_one_finds(
    run: RunDir, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(run, QUICK, CPU)

    def sums() -> TurnSums:
        model, pad = trained.model.eval(), inputs.pad_id
        return validation.turn_sums(
            model,
            inputs.plan,
            inputs.pack,
            inputs.rows,
            inputs.turns,
            pad_id=pad,
            progress=lambda count: None,
        )

    alone, parts = sums(), []

    def gather(local: Callable[[], Any]) -> list[Any]:
        parts.append(local())
        return parts

    monkeypatch.setattr(validation, "world_size", lambda: 3)
    monkeypatch.setattr(validation, "on_every_rank", gather)
    for number in range(3):
        monkeypatch.setattr(validation, "rank", lambda number=number: number)
        joined = sums()
    assert all(parts), "a rank had nothing to do"
    for name in TurnSums.__slots__:
        assert np.array_equal(getattr(joined, name), getattr(alone, name))


def test_a_model_in_shards_is_the_model(
    run: RunDir, trained: Trained, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda check=None: torch.device("cuda"))  # as built for
    latest = open_sharded(run, find_models(run, ["latest"])[0], CPU)
    assert {type(parameter) for parameter in latest.parameters()} == {DTensor}
    with torch.no_grad():
        logits = latest(input_ids=IDS, position_ids=torch.arange(IDS.shape[1])[None]).logits
    assert torch.equal(logits, trained.logits)
    loaded = for_generation(run, latest)
    assert FSDPModule in type(loaded.model).__mro__
    assert loaded.model.generate(input_ids=IDS, max_new_tokens=3).shape[1] <= IDS.shape[1] + 3


def test_adapters_are_added_in_before_the_model_is_sharded(
    tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda check=None: torch.device("cuda"))  # as built for
    adapted = train(tmp_path, FULL.model_copy(update={"lora": Lora(rank=2, targets="all-linear")}))
    latest = open_sharded(adapted.run, find_models(adapted.run, ["latest"])[0], CPU)
    assert {type(parameter) for parameter in latest.parameters()} == {DTensor}
    assert not any("lora" in name for name, _ in latest.named_parameters())
    with torch.no_grad():
        logits = latest(input_ids=IDS, position_ids=torch.arange(IDS.shape[1])[None]).logits
    assert logits == pytest.approx(adapted.logits, abs=1e-4)


def test_a_rank_takes_its_shard_of_a_merged_weight() -> None:
    whole, held = torch.arange(35.0).view(7, 5), torch.zeros(10, dtype=torch.bfloat16)
    model = SimpleNamespace(named_parameters=lambda: [("w", None)])
    weights = Weights({"w": whole.shape}, lambda names: dict.fromkeys(names, whole))
    shards = {"w": FlatShard(held, 15, whole.shape)}
    with mock.patch.object(sharded, "flat_shards", return_value=shards):
        sharded.fill_shards(model, weights)
    assert torch.equal(held.float(), torch.arange(15.0, 25.0))


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def copy(run: RunDir, folder: Path) -> RunDir:
    shutil.copytree(run.root, folder / "run", ignore=shutil.ignore_patterns("evaluation"))
    return RunDir(folder / "run")


def test_user_errors_have_no_traceback(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.root), "--checkpoint", "7"]) == ExitCode.USER_ERROR
    assert main([str(run.root), "--nproc", "99", "--device", "cuda"]) == ExitCode.USER_ERROR
    errors = capsys.readouterr().err
    assert "steps saved: 2" in errors
    assert "--nproc 99: there are" in errors


def test_a_gpu_that_is_not_there_is_refused(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([str(run.root), "--device", "cuda"]) == ExitCode.USER_ERROR
    assert capsys.readouterr().err == "error: --device cuda: there are 0 GPUs; use --device cpu\n"


def test_tasks_without_their_package_are_refused_with_its_name(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.evaluate.harness.find_spec", lambda name: None)
    assert main([str(run.root), "--tasks", "hellaswag"]) == ExitCode.USER_ERROR
    assert "pip install lm-eval" in capsys.readouterr().err


def test_metrics_of_the_harness_are_read_with_their_errors() -> None:
    results = {"hellaswag": {"alias": "hellaswag", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 1}}
    assert [score.model_dump() for score in task_scores(results)] == [
        {"task": "hellaswag", "metric": "acc", "value": 0.5, "stderr": 0.1},
        {"task": "hellaswag", "metric": "f1,strict", "value": 1.0, "stderr": None},
    ]


def test_only_the_file_of_a_task_is_read_not_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managers, evaluated = [], []

    def manager(**options: object) -> SimpleNamespace:
        managers.append(options)
        return SimpleNamespace(all_tasks=["hellaswag"], load=lambda specs: {"tasks": {specs[0]: None}})

    def simple_evaluate(*, tasks: list[str], **options: object) -> dict[str, object]:
        evaluated.append(tasks)
        return {"results": {"of_the_file": {"acc,none": 0.5}}}

    modules = {
        "lm_eval": SimpleNamespace(simple_evaluate=simple_evaluate),
        "lm_eval.tasks": SimpleNamespace(TaskManager=manager),
        "lm_eval.models.huggingface": SimpleNamespace(HFLM=lambda **options: None),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(harness, "find_spec", lambda name: True)
    (tmp_path / "mine.yaml").write_text("task: of_the_file")
    monkeypatch.chdir(tmp_path)
    tasks = ["hellaswag", "mine.yaml"]
    harness.require_harness(tasks)
    loaded = SimpleNamespace(model=None, tokenizer=None)
    found = harness.run_tasks(loaded, tasks, limit=None, batch_size=1, seed=0)  # type: ignore[arg-type]
    assert evaluated == [["hellaswag", str(tmp_path / "mine.yaml")]]
    assert managers == [{}, {}], "a folder of tasks was searched"
    assert [score.task for score in found] == ["of_the_file"]
    with pytest.raises(UserError, match=r"missing\.yaml: no such file"):
        harness.require_harness(["missing.yaml"])


TASK = """task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: DATA}
output_type: multiple_choice
test_split: train
doc_to_text: "{{question}}"
doc_to_choice: ["rain", "garden"]
doc_to_target: 1
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.slow
def test_a_task_of_ones_own_is_run_by_the_harness(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is optional, and not installed here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data.jsonl").write_text(4 * (json.dumps({"question": "What grows?"}) + "\n"))
    (tmp_path / "own.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")))
    options = ["--checkpoint", "latest", "--samples", "0", "--tasks", str(tmp_path / "own.yaml")]
    copied = copy(run, tmp_path)
    assert main([str(copied.root), *options, "--limit", "3"]) == ExitCode.DONE
    [score] = Evaluation.read(copied.evaluation_file).models[0].tasks
    assert (score.task, score.metric) == ("tiny_choice", "acc")
    assert 0 <= score.value <= 1


def test_a_pack_without_validation_tokens_is_refused(run: RunDir, tmp_path: Path) -> None:
    copied = RunDir(tmp_path / "run")
    shutil.copytree(run.root, copied.root, ignore=shutil.ignore_patterns("checkpoints"))
    text = json.loads(copied.plan_file.read_text())
    text["pack"]["folder"] = str(tmp_path / "nothing")
    copied.plan_file.write_text(json.dumps(text))
    with pytest.raises(UserError, match="nothing"):
        make_inputs(copied, QUICK, CPU)


def test_turns_beyond_the_deepest_are_one_group_and_conversations_are_the_units() -> None:
    turns = np.array([1, 1, 2, 8, 11, 1])
    sums = TurnSums(
        document=np.array([0, 1, 0, 0, 0, 1]),
        role=np.array(["user", "user", "user", "user", "user", "system"]),
        turn=turns,
        loss=np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        hits=np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]),
        tokens=np.ones(6),
    )
    drawn = Resampling(0.95, 100, 0)
    depths = depth_scores(sums, drawn)
    assert {name: (part.tokens, part.conversations) for name, part in depths.items()} == {
        "1": (2, 2),
        "2": (1, 1),
        "8+": (2, 1),
    }
    assert depths["8+"].loss.value == 4.5
    assert role_scores(sums, drawn)["system"].loss.value == 6.0
    whole = score(sums, drawn)
    assert (whole.tokens, whole.conversations) == (6, 2)
    assert whole.token_accuracy.value == 0.5


def test_what_each_token_adds_makes_up_the_sums(trained: Trained) -> None:
    ids = torch.arange(6, 70).reshape(2, 32)
    targets = torch.where(ids % 3 == 0, IGNORED, ids)
    inputs = {"input_ids": ids, "position_ids": torch.arange(32).expand(2, -1), "targets": targets}
    with torch.no_grad():
        sums, each = trained.model.eval()(**inputs), trained.model(**inputs, per_token=True)
    assert each.losses.shape == each.hits.shape == (2, 32)
    assert float(each.losses.sum()) == pytest.approx(float(sums.loss_sum), rel=1e-6)
    assert int(each.hits.sum()) == int(sums.correct)
    assert not each.losses[targets == IGNORED].any()
