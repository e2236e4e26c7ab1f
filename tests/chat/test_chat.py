"""A chat with a small model: the training format, a cache that changes nothing, a context that ends."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.chat.__main__ import main
from gemfit.chat.generator import ReplyGenerator, ReplySettings
from gemfit.chat.session import ChatSession
from gemfit.chat.terminal import chat_loop
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.evaluate.models import LoadedModel
from gemfit.export.chat_template import tokenizer_for_chat
from gemfit.schemas.evaluation import SampleMessage
from gemfit.schemas.recipe_data import DataRecipe

TEXT = ["I cannot sleep before my exams, and I do not know what to do about it."] * 9
Type = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, whose window is smaller than a conversation."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    torch.manual_seed(1)
    tokenizer = tokenizer_for_chat(train_tokenizer(TEXT, 400), DataRecipe())
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=6,
        num_attention_heads=2, num_key_value_heads=1, head_dim=24, sliding_window=16,
        max_position_embeddings=200, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    for parameter in model.parameters():
        parameter.data *= 3  # so that what comes before decides what comes next
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    tokenizer = tokenizer_for_chat(train_tokenizer(TEXT, 400), DataRecipe())
    return LoadedModel(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """What stands on stdout and stderr after these lines were piped into a chat."""

    def type_in(chat: Callable[[], Any], *lines: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        chat()
        return capsys.readouterr()

    return type_in


def greedy(loaded: LoadedModel, tokens: int = 12) -> ReplyGenerator:
    return ReplyGenerator(loaded, ReplySettings(temperature=0, max_new_tokens=tokens))


def user(text: str) -> SampleMessage:
    return SampleMessage(role="user", content=text)


@pytest.fixture
def in_words(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The model, made to say whole words: a text of them is tokenized as it was said."""
    vocab = loaded.tokenizer.get_vocab()
    spaced = {vocab[word] for word in ("▁sleep", "▁about", "▁know", "▁what", "▁do")}
    settings = loaded.model.generation_config
    monkeypatch.setattr(settings, "suppress_tokens", sorted(set(vocab.values()) - spaced - {vocab["I"]}))
    monkeypatch.setattr(settings, "begin_suppress_tokens", sorted(spaced))
    return loaded


def test_what_was_read_is_not_read_again_and_the_replies_are_the_same(in_words: LoadedModel) -> None:
    manner = ReplySettings(
        temperature=2.0, max_new_tokens=12
    )  # the likeliest word would be the same again and again
    cached, read = ReplyGenerator(in_words, manner), []
    messages: list[SampleMessage] = []
    for said in ("I cannot sleep", "What to do?", "Exams, you know"):
        messages.append(user(said))
        parts: list[str] = []
        torch.manual_seed(5)
        reply = cached.reply(messages, parts.append)
        assert len(set(reply.text.split())) > 2
        assert "".join(parts) == reply.text
        torch.manual_seed(5)
        assert reply.text == ReplyGenerator(in_words, manner).reply(messages, lambda text: None).text
        read.append((reply.read, cached.length(messages)))
        messages.append(SampleMessage(role="assistant", content=reply.text))
    assert read[0][0] == read[0][1]
    assert all(new < whole / 2 for new, whole in read[1:]), read


def test_another_conversation_is_read_from_its_start(loaded: LoadedModel) -> None:
    generator = greedy(loaded)
    generator.reply([user("I cannot sleep")], lambda text: None)
    reply = generator.reply([user("What to do about exams?")], lambda text: None)
    assert reply.read == generator.length([user("What to do about exams?")])
    assert reply.text == greedy(loaded).reply([user("What to do about exams?")], lambda text: None).text


def test_turns_that_do_not_fit_are_forgotten_oldest_first(loaded: LoadedModel, typed: Type) -> None:
    lines = [f"I do not know what to do about exams {number}" for number in range(8)]
    out, status = typed(lambda: chat_loop(greedy(loaded), ChatSession("Be kind."), None), *lines)
    assert len(out.splitlines()) >= len(lines)
    assert "the context is full: the oldest 1 turns are forgotten" in status
    _, status = typed(lambda: chat_loop(greedy(loaded), ChatSession(), None), "exams " * 200)
    assert "error: the message has" in status
    assert "188 fit" in status


def test_a_pipe_gets_replies_alone_and_commands_work_in_it(folder: Path, typed: Type, tmp_path: Path) -> None:
    saved, options = tmp_path / "chat.jsonl", ["--temperature", "0", "--max-new-tokens", "6"]
    lines = ("I cannot sleep", "", "/bogus", "What?", "/undo", f"/save {saved}", "/quit", "never read")
    out, status = typed(lambda: main([str(folder), "--system", "Be kind.", *options]), *lines)
    assert "system: Be kind." in status
    assert "error: /bogus is not a command" in status
    [conversation] = map(json.loads, saved.read_text().splitlines())
    roles = [message["role"] for message in conversation["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert out.startswith(conversation["messages"][2]["content"])
    assert "never" not in out


def test_equal_seeds_sample_equal_replies(folder: Path, typed: Type) -> None:
    def chat_with(seed: int) -> str:
        options = ["--temperature", "1.5", "--seed", str(seed), "--max-new-tokens", "20"]
        return typed(lambda: main([str(folder), *options]), "I cannot sleep")[0]

    assert chat_with(3) == chat_with(3) != chat_with(4)


def test_ctrl_c_ends_the_reply_and_keeps_what_was_said(loaded: LoadedModel) -> None:
    generator, parts = greedy(loaded, tokens=150), []

    def write(text: str) -> None:
        parts.append(text)
        if len(parts) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    reply = generator.reply([user("I cannot sleep")], write)
    assert reply.interrupted
    assert 0 < reply.tokens < 150
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_words_that_end_a_reply_are_not_shown(loaded: LoadedModel) -> None:
    whole = greedy(loaded).reply([user("I cannot sleep")], lambda text: None).text
    stop = whole[len(whole) // 2 :][:4]
    model = loaded.model
    model.generation_config.stop_strings = [stop]
    try:
        parts: list[str] = []
        reply = greedy(loaded).reply([user("I cannot sleep")], parts.append)
    finally:
        model.generation_config.stop_strings = None
    assert reply.text == whole[: whole.index(stop)].strip()
    assert "".join(parts).strip() == reply.text


def test_a_reply_longer_than_the_context_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--max-new-tokens", "200"]) == 2
    assert "leaves no room" in capsys.readouterr().err


def test_a_model_folder_has_no_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--checkpoint", "3"]) == 2
    assert "has no checkpoints" in capsys.readouterr().err
    assert main([str(folder.parent)]) == 2
    assert "neither a model folder" in capsys.readouterr().err


def test_the_context_of_a_multimodal_model_is_that_of_its_text_part() -> None:
    config = Gemma3Config(text_config={"max_position_embeddings": 64})
    loaded = LoadedModel(SimpleNamespace(config=config), None)
    assert ReplyGenerator(loaded, ReplySettings(temperature=0, max_new_tokens=16)).room == 48
