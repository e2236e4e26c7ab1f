"""Models of a run are found by name, and are the ones that were trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from evaluate.conftest import FULL
from gemfit.core.jsonl_log import append_record
from gemfit.errors import UserError
from gemfit.evaluate import models
from gemfit.evaluate.generation import SeededSampling, generate_replies, prompt_ids
from gemfit.evaluate.models import (
    LoadedModel,
    ModelRef,
    find_models,
    for_generation,
    open_model_ref,
    open_packed,
)
from gemfit.export.export import export
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import SampleMessage
from gemfit.schemas.metrics import HardwareRecord
from gemfit.schemas.recipe_model import Lora
from gemfit.train.model.build import load_model
from train.trained import IDS, Trained, train

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WORDS = ("rain", "exams and sleep", "a")
CONVERSATIONS = [[SampleMessage(role="user", content=f"{words} keep me busy")] for words in WORDS]


@pytest.fixture(scope="module")
def loaded(trained: Trained) -> LoadedModel:
    return open_model_ref(trained.run, find_models(trained.run, ["latest"])[0], "cpu")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, position_ids=torch.arange(IDS.shape[1])[None]).logits
    return found


def test_a_checkpoint_is_the_model_that_was_trained(trained: Trained, loaded: LoadedModel) -> None:
    assert torch.equal(logits(loaded.model), trained.logits)
    assert type(loaded.model).__module__.startswith("transformers.")


def test_the_base_of_a_scratch_recipe_has_its_seeded_weights(trained: Trained) -> None:
    base = open_packed(trained.run, find_models(trained.run, ["base"])[0], "cpu")
    fresh = load_model(trained.run.plan().recipe, trained.tokenizer).eval()
    assert torch.equal(logits(base), logits(fresh))
    assert not torch.equal(logits(base), trained.logits)


def test_adapters_of_a_checkpoint_are_added_in_and_the_base_has_none(
    tmp_path: Path, trained: Trained
) -> None:
    lora = Lora(rank=2, targets=("q_proj", "up_proj"))
    adapted = train(tmp_path, FULL.model_copy(update={"lora": lora}))
    base, latest = (open_packed(adapted.run, s, "cpu") for s in find_models(adapted.run, ["base", "2"]))
    assert logits(latest) == pytest.approx(adapted.logits, abs=1e-4)
    assert not any("lora" in name for name, _ in base.named_parameters())
    assert (logits(base) - adapted.logits).abs().max() > 1e-2


def test_an_exported_folder_is_the_same_model(tmp_path: Path, trained: Trained) -> None:
    export(trained.run, tmp_path / "model")
    (ref,) = find_models(trained.run, [str(tmp_path / "model")])
    assert torch.equal(logits(open_packed(trained.run, ref, "cpu")), trained.logits)


def test_each_model_is_found_once_under_any_of_its_names(trained: Trained) -> None:
    found = find_models(trained.run, ["base", "latest", "2", "step-2", "step 2"])
    assert [(ref.name, ref.step) for ref in found] == [("base", None), ("step 2", 2)]


@pytest.mark.parametrize(
    ("name", "words"), [("3", "steps saved: 2"), ("bse", "neither a model folder .* nor a step")]
)
def test_a_name_that_is_nothing_is_refused_with_what_there_is(
    name: str, words: str, trained: Trained
) -> None:
    with pytest.raises(UserError, match=words):
        find_models(trained.run, [name])


def test_without_an_evaluated_checkpoint_none_is_the_best(trained: Trained) -> None:
    with pytest.raises(UserError, match="evaluated"):
        find_models(trained.run, ["best"])


def test_before_the_first_checkpoint_there_is_no_latest(trained: Trained, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(trained.run.root, run.root)
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    with pytest.raises(UserError, match="no valid checkpoint yet"):
        find_models(run, ["latest"])


@pytest.mark.parametrize("attention", ["flash_attention_2", "varlen"])
def test_attention_without_a_kernel_here_gives_way_and_that_is_said(
    attention: str, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_packed(*base_of_run_with(attention, trained, tmp_path), "cpu")
    assert model.config._attn_implementation == "sdpa"
    assert f"attention is sdpa: {attention}, which the run was trained with, needs a GPU" in caplog.text


def test_varlen_takes_packed_rows_on_a_gpu_and_generates_by_another_attention(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models, "plan_here", lambda run, device: run.plan())  # as on a GPU
    run, base = base_of_run_with("varlen", trained, tmp_path)
    model = open_packed(run, base, "cpu")
    assert model.config._attn_implementation == "varlen"
    loaded = for_generation(run, model)
    usual = open_model_ref(trained.run, base, "cpu")
    assert generate(loaded, CONVERSATIONS, 0.0, 3) == generate(usual, CONVERSATIONS, 0.0, 3)
    assert "replies are generated with attention sdpa: varlen has no KV cache" in caplog.text


def test_a_model_on_a_gpu_is_allocated_there_in_the_type_of_the_recipe(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(models, "prepare_attention", seen.append)
    monkeypatch.setattr(models, "allocate_parameters", lambda model, *where: seen.extend(where))
    monkeypatch.setattr(models, "fill_shards", lambda model, weights: seen.append(weights))
    monkeypatch.setattr(models, "_moved", lambda model, *where: seen.extend(where))
    plan = trained.run.plan()
    recipe = plan.recipe.model_copy(update={"model": FULL.model_copy(update={"dtype": "bfloat16"})})
    monkeypatch.setattr(RunDir, "plan", lambda run: plan.model_copy(update={"recipe": recipe}))
    (latest,) = find_models(trained.run, ["latest"])
    open_packed(trained.run, latest, "cuda")
    there = (torch.device("cuda"), torch.bfloat16)
    assert seen == ["cuda", *there, latest.folder, *there]


@pytest.mark.parametrize("lora", [None, Lora(rank=2, use_dora=True)])
def test_what_a_gpu_evaluates_are_the_exported_values(
    lora: Lora | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(tmp_path, FULL.model_copy(update={"lora": lora}))
    exact, (latest,) = {}, find_models(made.run, ["latest"])
    for name, parameter in open_packed(made.run, latest, "cpu").named_parameters():
        exact[name] = parameter
    monkeypatch.setattr(models, "compute_dtype", lambda device, recipe: torch.bfloat16)
    found = dict(open_packed(made.run, latest, "cpu").named_parameters())
    assert found.keys() == exact.keys()
    assert all(torch.equal(found[name], exact[name].bfloat16()) for name in found)


@pytest.mark.slow
def test_opening_a_model_takes_no_second_copy_of_it(measure: Callable[..., Any]) -> None:
    found = measure("tests/memory/evaluation.py", "--layers", "8", timeout_seconds=300)
    held = 2 * found["parameters"]
    # Merging holds more than one weight in float32, and pages of the base's files.
    most = {"base": 1.4, "full fine-tune": 1.6, "adapters": 2.4}
    for case, row in found["cases"].items():
        assert row["dtype"] == "torch.bfloat16"
        # Read whole in float32 and cast afterwards, they take 2.2, 2.5 and 3.0 times as much.
        assert held < row["peak"] <= most[case] * held, case


@pytest.mark.parametrize("recorded", ["varlen", "sdpa", None])
def test_the_attention_that_training_took_is_used(
    recorded: str | None, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_open_attention(trained, tmp_path, recorded)
    assert models.plan_here(run, "cuda").recipe.model.attention == (recorded or "sdpa")
    assert models.plan_here(run, "cpu").recipe.model.attention == "sdpa"


@pytest.mark.parametrize(("fault", "used"), [(None, "varlen"), ("no kernel for this GPU", "sdpa")])
def test_a_gpu_without_the_kernel_of_the_training_takes_sdpa(
    fault: str | None,
    used: str,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(models, "fault_of_varlen", lambda model, device: fault)
    monkeypatch.setattr(models, "allocate_parameters", lambda *options: None)
    monkeypatch.setattr(models, "fill_shards", lambda *options: None)
    monkeypatch.setattr(models, "_moved", lambda model, *where: model)
    run = run_with_open_attention(trained, tmp_path, "varlen")
    model = open_packed(run, find_models(run, ["base"])[0], "cuda")
    assert model.config._attn_implementation == used
    assert (fault is not None) == ("cannot be used here: no kernel for this GPU" in caplog.text)


def run_with_open_attention(trained: Trained, folder: Path, recorded: str | None) -> RunDir:
    """A run whose plan leaves the attention to a probe, which has taken ``recorded``."""
    run = RunDir(folder)
    plan = trained.run.plan()
    model = plan.recipe.model.model_copy(update={"attention": "sdpa"})
    recipe = plan.recipe.model_copy(update={"model": model})
    plan = plan.model_copy(update={"recipe": recipe, "attention_if_proven": "varlen"})
    run.plan_file.write_text(plan.to_json())
    if recorded is not None:
        record = HardwareRecord(attempt=1, step=0, hosts=(), versions={}, attention=recorded, time=0.0)
        append_record(run.metrics_file, record)
    return run


def base_of_run_with(attention: str, trained: Trained, folder: Path) -> tuple[RunDir, ModelRef]:
    """A run with this attention and a pack, and its base model."""
    plan = json.loads(trained.run.plan_file.read_text())
    plan["recipe"]["model"]["attention"] = attention
    run = RunDir(folder)
    run.plan_file.write_text(json.dumps(plan))
    return run, find_models(run, ["base"])[0]


def generate(
    loaded: LoadedModel, conversations: list[list[SampleMessage]], temperature: float, batch_size: int
) -> list[str]:
    return generate_replies(
        loaded,
        conversations,
        max_new_tokens=8,
        temperature=temperature,
        seed=1,
        batch_size=batch_size,
        progress=None,
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_reply_does_not_depend_on_its_batch(loaded: LoadedModel, temperature: float) -> None:
    alone, together = (
        generate(loaded, CONVERSATIONS, temperature, 1),
        generate(loaded, CONVERSATIONS[::-1], temperature, 3),
    )
    assert alone == together[::-1]
    assert all(alone)


def test_a_repeated_question_is_drawn_anew_and_an_equal_seed_repeats_all(loaded: LoadedModel) -> None:
    first, second = generate(loaded, [CONVERSATIONS[0], CONVERSATIONS[0]], 1.0, 2)
    assert first != second
    assert [first, second] == generate(loaded, [CONVERSATIONS[0], CONVERSATIONS[0]], 1.0, 2)


def test_sampling_takes_tokens_as_often_as_the_model_says() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log().expand(4000, -1)
    numbers = (torch.arange(4000.0, dtype=torch.float64) / 4000)[:, None]
    drawn = SeededSampling(LogitsProcessorList(), numbers, 1)(torch.zeros(4000, 1), scores).argmax(-1)
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([2000, 0, 1200, 800], abs=2)


def test_a_reply_ends_where_the_format_ends_a_turn(trained: Trained, loaded: LoadedModel) -> None:
    stops = loaded.model.generation_config.eos_token_id
    assert trained.tokenizer.eos_token_id in (stops if isinstance(stops, list) else [stops])
    assert loaded.tokenizer.decode(prompt_ids(loaded.tokenizer, CONVERSATIONS[0])).endswith("<|assistant|>")
