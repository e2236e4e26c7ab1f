"""A fake Hub with a tiny sharded model and a dataset, and a cache of each test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.core import hub_commit
from gemfit.data.tokenize.tokenizer import pad_id, train_tokenizer
from publish.server import HubServer
from train.tiny_gemma import SIZES
from train.trained import write_conversations

MODEL, DATASET = "user/tiny", "user/chats"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 in several files of weights, with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = SIZES | ids | {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, pad_token_id=pad_id(tokenizer)))
    model.save_pretrained(folder, max_shard_size="300KB")
    tokenizer.save_pretrained(str(folder))
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"not read by transformers")
    return folder


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two configurations, each a file."""
    folder = tmp_path_factory.mktemp("dataset")
    for name in ("chats", "other"):
        (folder / name).mkdir()
        write_conversations(folder / name / "train.jsonl")
    configs = [{"config_name": name, "data_files": f"{name}/train.jsonl"} for name in ("chats", "other")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return folder


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, dataset_folder: Path
) -> Iterator[HubServer]:
    """The server; this process and its children download from it, into ``tmp_path / "cache"``."""
    with HubServer(tmp_path / "hub") as server:
        server.publish(MODEL, model_folder)
        server.publish(DATASET, dataset_folder)
        cache = str(tmp_path / "cache")
        for name, value in {**server.environment, "HF_HUB_CACHE": cache, "HF_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        # Values that a process started now would read.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub_commit._cached.cache_clear()
        yield server
        hub_commit._cached.cache_clear()
