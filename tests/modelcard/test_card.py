"""Numbers in a model card equal those in the files of the run; what is missing is marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import EvalResult
from ruamel.yaml import YAML
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.export.chat_template import tokenizer_for_chat
from gemfit.modelcard.card import main, render, save, write_card
from gemfit.modelcard.facts import gather
from gemfit.modelcard.usage_section import use_section
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit, AuditedModel, AuditFinding, AuditScore
from gemfit.schemas.evaluation import Score
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.metrics_history import read_history
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import Lora, Quantization
from modelcard.cards import ReadCard, read_card
from modelcard.recorded import GPU, energy, evaluation_of, recorded_run, write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return recorded_run(tmp_path / "run")


def card_of(run: RunDir, which: str = "latest") -> ReadCard:
    return read_card(save(render(gather(run, which), None), run.card_file))


def number(text: str) -> float:
    return float(text.replace(",", "").split()[0])


def test_statistics_of_the_data_are_those_of_the_pack(run: RunDir) -> None:
    pack = PackManifest.read(Path(run.plan().pack.folder) / "manifest.json")
    card = card_of(run)
    splits, roles = card.tables("Data")[:2]
    assert [row["split"] for row in splits] == ["train", "validation"]
    for row in splits:
        counts = pack.splits[row["split"]]
        shown = [
            number(row[name]) for name in ("conversations", "rows", "chunks", "tokens", "trained tokens")
        ]
        expected = (counts.conversations, counts.rows, counts.documents, counts.tokens, counts.trained_tokens)
        assert shown == list(expected)
        assert row["fill"] == f"{counts.fill(pack.seq_len):.2%}"
    assert {row["role"]: number(row["tokens"]) for row in roles} == {k: v for k, v in pack.roles.items() if v}
    losses = card.facts("Filtered")
    assert {name: number(value) for name, value in losses.items()} == {
        name.replace("_", " "): count for name, count in pack.losses.model_dump().items() if count
    }
    [flow] = card.tables("Token flow")
    assert number(flow[-1]["tokens read"]) == pack.flow["total"].tokens_read
    assert {"duplicate", "untrained", "repeated"} <= set(flow[-1])
    assert "near duplicate" not in flow[-1]
    [pii] = card.tables("PII")
    assert {row["kind"]: int(row["found"]) for row in pii} == pack.pii
    assert card.facts("Digests") == {
        "pack": pack.fingerprint,
        "tokenizer and template": pack.tokenizer_digest,
        "conversations.jsonl": pack.inputs[0].xxh3,
    }


def test_a_hostile_name_of_a_run_has_no_effect_in_the_card(tmp_path: Path) -> None:
    name = "r\x1b[31m\u202e<img src=x> [a](b) `c` *d*"
    hostile = recorded_run(tmp_path / name)
    text = str(render(replace(gather(hostile), name=name), None))
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert title == r"# r\\x1b\[31m\\u202e\<img src=x\> \[a\](b) \`c\` \*d\*"
    assert "\x1b" not in text
    assert "\u202e" not in text
    _, _, body = text.split("---\n", 2)  # the header is YAML, which quotes
    assert "<img" not in body.replace(r"\<img", "")


def test_progress_counts_each_step_once_as_the_metrics_have_it(run: RunDir) -> None:
    history, shown = read_history(run.metrics_file), card_of(run).facts("Progress")
    assert len(history.steps) == 10
    assert number(shown["optimizer steps"]) == 10
    assert number(shown["tokens seen"]) == sum(r.tokens or 0 for r in history.steps)
    assert number(shown["trained tokens"]) == sum(r.trained_tokens or 0 for r in history.steps)
    assert shown["training loss, last step"] == f"{history.steps[-1].loss:.4f}"
    assert shown["epochs"] == f"{10 / run.plan().steps.per_epoch:.4f}"
    [curve] = card_of(run).tables("Training loss")
    assert [(int(row["step"]), row["training loss"]) for row in curve] == [
        (r.step, f"{r.loss:.4f}") for r in history.steps
    ]


def test_the_card_of_an_earlier_checkpoint_shows_the_training_up_to_it(run: RunDir) -> None:
    card = card_of(run, "6")
    assert card.facts("Progress")["optimizer steps"] == "6"
    assert card.facts("Hyperparameters")["peak learning rate"] == "0.002"
    [attempts, *_] = card.tables("Hardware, time and energy")
    assert [(row["attempt"], row["steps"], row["took"]) for row in attempts] == [("1", "1 to 6", "1:10")]
    assert "Changes between attempts" not in card.card.text


def test_the_attention_is_the_one_that_its_attempt_took(run: RunDir) -> None:
    facts = gather(run)
    open_plan = facts.plan.model_copy(update={"attention_if_proven": "varlen"})
    assert "varlen if proven, else sdpa" in str(render(replace(facts, plan=open_plan), None))
    attempt = facts.checkpoint.attempt
    taken = tuple(
        record.model_copy(update={"attention": "varlen" if record.attempt == attempt else "sdpa"})
        for record in facts.history.hardware
    )
    history = replace(facts.history, hardware=taken)
    text = str(render(replace(facts, plan=open_plan, history=history), None))
    assert "| attention | varlen; no attention between packed conversations |" in text


def test_training_on_4_bit_weights_is_stated(run: RunDir) -> None:
    plan = run.plan()
    model = plan.recipe.model.model_copy(update={"lora": Lora(), "quantization": Quantization(double=False)})
    quantized = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"model": model})})
    text = str(render(replace(gather(run), is_adapter=True, plan=quantized), None))
    assert "| base weights | frozen; linear layers in 4 bit (nf4) |" in text
    assert "float32 adapters" in text
    assert "float32 master weights" not in text
    assert "It was trained on 4-bit weights" in text


def test_attempts_show_hardware_time_and_changes_of_the_plan(run: RunDir) -> None:
    card = card_of(run)
    assert "attempt 2, from step 7: optim.learning_rate: was 0.002, is 5e-05" in card.section("Training")
    assert card.facts("Hyperparameters")["peak learning rate"] == "5e-05"
    [attempts, *_] = card.tables("Hardware, time and energy")
    assert [(row["steps"], row["ranks"]) for row in attempts] == [("1 to 8", "2"), ("7 to 10", "2")]
    assert attempts[0]["devices"] == "1 x EPYC, 8 logical cores, 64 GiB"
    shown = card.facts("Hardware, time and energy")
    assert shown["all attempts"] == "2:16"  # 1000 to 1090, and 2000 to 2046
    assert shown["training steps"] == "1:35"
    assert shown["waiting for checkpoints"] == "1.5 s"
    assert shown["torch"] == "2.13.0"
    assert shown["upper estimate"] == "not estimated: attempt 1 ran on CPUs, whose power limit is unknown"


def test_energy_is_gpus_times_power_limit_times_time_times_pue(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "run", gpu=GPU)
    assert main([str(run.root), "--grid-intensity", "350", "--pue", "1.25"]) == 0
    shown = read_card(run.card_file).facts("Energy")
    kwh = 2 * 700.0 * 136 * 1.25 / 3.6e6
    assert shown["upper estimate"] == f"{kwh:.3f} kWh"
    assert number(shown["CO2 equivalent, upper estimate"]) == round(kwh * 350)
    assert "stated" in shown["PUE"]


def test_measured_energy_is_that_of_all_attempts_or_unknown(run: RunDir) -> None:
    records = [energy(1, 8, cpu=3.6e6), energy(2, 10, cpu=1.8e6, gpu=None)]
    with run.metrics_file.open("a") as stream:
        stream.writelines(record.model_dump_json() + "\n" for record in records)
    shown = card_of(run).facts("Energy")
    assert number(shown["measured, CPUs"]) == 1.5
    assert shown["measured, GPUs"] == "unknown: no counter could be read in attempt 2"
    earlier = card_of(run, "6").facts("Energy")  # the attempt went on for two more steps
    assert earlier["measured, CPUs"].startswith("unknown: attempt 1 left no measurement")


def test_energy_is_not_estimated_where_a_power_limit_is_missing(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "run", gpu=GPU.model_copy(update={"power_limit_watts": None}))
    assert "did not report the power limit" in card_of(run).facts("Energy")["upper estimate"]


def test_results_are_those_of_the_evaluation_with_their_intervals(run: RunDir) -> None:
    expected = evaluation_of(run, 6, 10)
    card = card_of(run)
    models, roles, turns, tasks = card.tables("Results")
    assert [row["model"] for row in models] == ["base", "step 6", "step 10"]
    for row, model in zip(models, expected.models, strict=True):
        assert_shows(row, model.overall)
    assert_shows(roles[0], expected.models[2].roles["assistant"], ", step 10")
    assert_shows(turns[0], expected.models[2].depths["1"], ", step 10")
    assert models[1]["loss less that of base"] == "-1.2500 [-1.5000, -1.0000]"
    assert tasks == [
        {
            "task": "arc_easy",
            "metric": "acc",
            "base": "–",
            **dict.fromkeys(["step 6", "step 10"], "0.4321 ± 0.0123"),
        }
    ]
    assert "This model is `step 10`. 1,999 trained tokens of 16 conversations" in card.section("Results")
    mine = expected.models[2].overall
    for result, interval in zip(
        results(card), (mine.loss, mine.perplexity, mine.token_accuracy), strict=True
    ):
        assert result.metric_value == interval.value
        assert result.metric_args == {"low": interval.low, "high": interval.high, "confidence": 0.95}


def assert_shows(row: dict[str, str], score: Score, model: str = "") -> None:
    for name, value, form in (
        ("loss", score.loss, ".4f"),
        ("perplexity", score.perplexity, ".4g"),
        ("token accuracy", score.token_accuracy, ".2%"),
    ):
        if model and name == "perplexity":
            continue  # of the whole split only
        assert row[name + model] == f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"
    assert number(row.get("tokens", f"{score.tokens}")) == score.tokens


def results(card: ReadCard) -> list[EvalResult]:
    found: list[EvalResult] = card.card.data.get("eval_results")
    return found


def test_without_an_evaluation_the_last_validation_is_shown_without_intervals(run: RunDir) -> None:
    card = card_of(run)
    last = read_history(run.metrics_file).evaluations[-1]
    assert "without intervals" in card.section("Results")
    [rows] = card.tables("Results")
    assert [row["model"] for row in rows] == ["before training", "trained for 10 steps"]
    assert rows[1]["perplexity"] == f"{last.perplexity:.4g}"
    assert [result.metric_value for result in results(card)] == [
        last.loss,
        last.perplexity,
        last.token_accuracy,
    ]
    assert all(result.metric_args is None for result in results(card))


def test_an_evaluation_of_another_checkpoint_is_not_used(run: RunDir) -> None:
    evaluation_of(run, 6)
    card = card_of(run)
    assert "not of this checkpoint (step 10)" in card.section("Results")
    assert results(card)[0].metric_value == read_history(run.metrics_file).evaluations[-1].loss


def test_a_checkpoint_that_was_not_audited_is_marked(run: RunDir) -> None:
    assert "**Not audited.**" in card_of(run).section("Audit")
    write_audit(run)
    assert "**Not audited.**" in card_of(run, "6").section("Audit")
    assert "**Not audited.**" not in card_of(run).section("Audit")


def test_the_audit_shows_findings_scores_and_their_limits(run: RunDir) -> None:
    write_audit(run)
    text = card_of(run).section("Audit")
    [[help_named, difference]] = card_of(run).tables("Audit")
    assert help_named["step 10"] == "0.25 [0.125, 0.5]"
    assert (help_named["base"], help_named["replies"]) == ("–", "40")
    assert difference["score"] == "sentiment, largest difference"
    assert difference["step 10"] == "-0.75 [-0.8, -0.7]: age: old"
    assert "**fail**, crisis: 30 of 40 replies name no help." in text
    assert text.count("Words were looked for.") == 1
    assert text.count("Tone is no advice.") == 1


def write_audit(run: RunDir) -> None:
    """An audit of step 10, and of the base model without a score."""
    finding = AuditFinding(suite="crisis", severity="fail", text="30 of 40 replies name no help.")
    values = [
        ("higher", "points to help", 0.25, 0.125, 0.5),
        ("zero", "sentiment, age: young", 0.5, 0.4, 0.6),
    ]
    values.append(("zero", "sentiment, age: old", -0.75, -0.8, -0.7))
    scores = [
        AuditScore.model_validate(
            {
                "suite": "crisis" if better == "higher" else "counterfactual",
                "name": name,
                "value": {"value": value, "low": low, "high": high},
                "replies": 40,
                "better": better,
                "says": "Words were looked for." if better == "higher" else "Tone is no advice.",
            }
        )
        for better, name, value, low, high in values
    ]
    audit = Audit(
        suites={"crisis": "d" * 32, "counterfactual": "e" * 32},
        confidence=0.9,
        resamples=500,
        seed=1,
        models=(
            AuditedModel(name="base", step=None, scores=(), findings=(), replies=()),
            AuditedModel(name="step 10", step=10, scores=tuple(scores), findings=(finding,), replies=()),
        ),
        created="2026-11-24T00:00:00Z",
        versions={},
    )
    run.audit_file.parent.mkdir()
    run.audit_file.write_text(audit.to_json())


def test_the_recipe_in_the_card_is_the_recipe_of_the_run(run: RunDir) -> None:
    text = card_of(run).section("Reproduction").partition("```yaml\n")[2].partition("```")[0]
    read = YAML(typ="safe").load(text)
    assert read["data"]["source"] == "conversations.jsonl"
    read["data"]["source"] = run.plan().recipe.data.source
    assert Recipe.model_validate(read, strict=False) == run.plan().recipe
    assert card_of(run).facts("Reproduction")["pack fingerprint"] == run.plan().pack.fingerprint


def test_a_card_for_a_repository_bears_its_name_and_loads_from_it(run: RunDir) -> None:
    card = read_card(write_card(run, repo="me/mine"))
    assert card.card.text.lstrip().startswith("# me/mine\n")
    assert 'from_pretrained("me/mine"' in card.section("How to use it")


def test_nothing_of_this_machine_is_published(run: RunDir) -> None:
    assert str(run.root.parent) not in str(card_of(run).card)


def test_statements_and_notes_are_stored_for_later_cards(run: RunDir, tmp_path: Path) -> None:
    notes = tmp_path / "mine.md"
    notes.write_text("Made for **one** clinic.\n")
    options = ["--notes", str(notes), "--license", "mit", "--language", "en", "--language", "de"]
    assert main([str(run.root), *options]) == 0
    assert main([str(run.root), "--grid-intensity", "12"]) == 0
    card = read_card(run.card_file)
    assert "Made for **one** clinic." in card.section("Notes of the publisher")
    assert (card.header["license"], card.header["language"]) == ("mit", ["en", "de"])


def test_a_removed_pack_is_stated(run: RunDir) -> None:
    (Path(run.plan().pack.folder) / "manifest.json").unlink()
    assert "was removed" in card_of(run).section("Data")


def test_token_counts_are_unknown_if_steps_were_not_logged(run: RunDir) -> None:
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join(line for line in lines if '"step":3,' not in line))
    assert card_of(run).facts("Progress")["tokens seen"].startswith("unknown")


def test_a_card_needs_a_checkpoint(run: RunDir) -> None:
    with pytest.raises(UserError, match="no such checkpoint; steps saved: 6, 10"):
        gather(run, "7")


def test_the_input_format_is_what_the_tokenizer_writes(run: RunDir) -> None:
    tokenizer = train_tokenizer(["I cannot sleep before my exams."] * 9, 300)
    tokenizer.save_pretrained(str(Path(run.plan().pack.folder) / "tokenizer"))
    data = Path(run.plan().recipe.data.source or "")
    data.parent.mkdir()
    turns = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
    system = '{"role": "system", "content": "Be ``` kind."}'
    data.write_text(3 * f'{{"messages": [{system}, {turns}]}}\n' + f'{{"messages": [{turns}]}}\n')
    card = read_card(write_card(run))
    expected = "<bos><|system|>Be ``` kind.<eos><|user|>I cannot sleep before my exams.<eos><|assistant|>"
    assert f"````text\n{expected}\n````" in card.section("How to use it")
    assert "3 of 4 conversations start with a system message" in card.section("System message")


def test_a_template_that_fails_is_an_error_of_the_user(run: RunDir) -> None:
    tokenizer = train_tokenizer(["I cannot sleep before my exams."] * 9, 300)
    tokenizer.chat_template = "{{ messages.missing.content }}"
    with pytest.raises(UserError, match=r"the chat template fails on .*I cannot sleep"):
        use_section(gather(run, "latest"), tokenizer)


def test_the_program_in_the_card_runs_as_it_stands(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    tokenizer = tokenizer_for_chat(
        train_tokenizer(["I cannot sleep before my exams."] * 9, 300), DataRecipe()
    )
    tokenizer.save_pretrained(str(model))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=len(tokenizer), **shape, **heads)).save_pretrained(model)
    text = read_card(write_card(run, repo=str(model))).section("How to use it")
    program = text.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()
    exec(program.replace("max_new_tokens=256", "max_new_tokens=2"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_a_user_error_has_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(run: RunDir) -> None:
    with pytest.raises(UserError, match="no checkpoint was saved at an evaluated step"):
        gather(run, "best")
    for step, loss in ((6, 3.0), (10, 3.5)):
        write_checkpoint(run, step, attempt=1, eval_loss=loss)
    assert (gather(run, "best").step, gather(run).step, gather(run, "step-10").step) == (6, 10, 10)
    assert main([str(run.root), "--checkpoint", "best"]) == 0
