"""One answer of a model folder, with the folder's own chat template and stop tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.chat.__main__ import main
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import ExitCode
from gemfit.export.chat_template import tokenizer_for_chat
from gemfit.schemas.recipe_data import DataRecipe

MESSAGES = [{"role": "user", "content": "rain again"}]
Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Answer:
    """What ``gemfit chat --message --json`` prints."""

    def ask(folder: Path, **options: object) -> dict[str, Any]:
        words = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        assert main([str(folder), "--message", "rain again", "--json", *words]) == ExitCode.DONE
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return ask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, and the tokenizer of a `role_markers` export."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["rain again and again, and a garden"] * 20, 320)
    tokenizer_for_chat(tokenizer, DataRecipe()).save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma3TextConfig(vocab_size=len(tokenizer), **sizes, **heads, eos_token_id=1, pad_token_id=0)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


def stop_at_once(generate: Answer, folder: Path, tmp_path: Path) -> Path:
    """A copy of the model whose first likeliest token is one that stops."""
    first = generate(folder, max_new_tokens=1, temperature=0)
    assert first["ended"] == "length"
    model = Gemma3ForCausalLM.from_pretrained(folder)
    tokens = model.generate(**prompt(folder), max_new_tokens=1, do_sample=False)
    model.generation_config.eos_token_id = [1, int(tokens[0, -1])]
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def prompt(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer  # noqa: PLC0415  (only this helper)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(
        tokenizer.apply_chat_template(
            MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    )


def test_an_answer_has_no_more_tokens_than_asked_for(generate: Answer, folder: Path) -> None:
    answer = generate(folder, max_new_tokens=5, temperature=0)
    assert answer["reply_tokens"] == 5
    assert answer["ended"] == "length"


def test_an_answer_ends_at_a_stop_token(generate: Answer, folder: Path, tmp_path: Path) -> None:
    answer = generate(stop_at_once(generate, folder, tmp_path), max_new_tokens=5, temperature=0)
    assert answer["reply_tokens"] == 1
    assert answer["ended"] == "stop"


def test_equal_seeds_give_equal_answers_and_others_do_not(generate: Answer, folder: Path) -> None:
    answers = [generate(folder, max_new_tokens=12, seed=seed)["reply"] for seed in (3, 3, 4)]
    assert answers[0] == answers[1] != answers[2]


def test_the_answer_is_streamed_to_the_terminal(
    generate: Answer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--message", "rain again", "--temperature", "0", "--max-new-tokens", "6"]
    assert main([str(folder), *options]) == ExitCode.DONE
    streamed = capsys.readouterr().out
    whole = generate(folder, max_new_tokens=6, temperature=0)["reply"]
    assert streamed.strip() == whole.strip() != ""


def test_figures_come_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--message", "rain", "--system", "be kind", "--max-new-tokens", "3", "--json"]
    assert main([str(folder), *options]) == ExitCode.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["reply_tokens"] == 3
    assert answer["prompt_tokens"] > 3


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--message", "rain"]) == ExitCode.USER_ERROR
    assert f"error: {tmp_path}: is neither a model folder" in capsys.readouterr().err


def test_messages_that_the_template_refuses_are_the_users_mistake(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")
    assert main([str(tmp_path), "--message", "rain", "--system", "be kind"]) == ExitCode.USER_ERROR
    assert "refuses these messages: no system here" in capsys.readouterr().err
