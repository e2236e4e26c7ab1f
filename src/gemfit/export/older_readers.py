"""Files that transformers 4 and llama.cpp's converter read, next to those that transformers 5 writes.

transformers 5 has new keys for RoPE, special tokens and the type of the weights, and saves no SentencePiece
model. Other programs know the old keys only, and ignore the new ones without a word.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.schemas.recipe_model import ModelRecipe

SENTENCEPIECE = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
OLD_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Of transformers 4: it knows no model that has another one."""


def with_old_keys(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` and the configurations inside it, with the keys of transformers 4 added."""
    found = {key: with_old_keys(value) if isinstance(value, dict) else value for key, value in config.items()}
    if isinstance(rope := config.get("rope_parameters"), dict):
        found = _old_rope(rope) | found
    if isinstance(dtype := config.get("dtype"), str):
        found.setdefault("torch_dtype", dtype)
    return found


def _old_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and, where layers have two kinds, ``rope_local_base_freq``."""
    whole = rope.get("full_attention", rope)
    if not isinstance(whole, dict) or "rope_theta" not in whole:
        return {}
    scaling = {key: value for key, value in whole.items() if key != "rope_theta"}
    if (kind := scaling.get("rope_type", "default")) not in OLD_ROPE_TYPES:
        return {}
    is_scaled = kind != "default"
    found = {"rope_theta": whole["rope_theta"]} | ({"rope_scaling": scaling} if is_scaled else {})
    if isinstance(local := rope.get("sliding_attention"), dict) and "rope_theta" in local:
        found["rope_local_base_freq"] = local["rope_theta"]
    return found


def write_old_tokenizer_keys(folder: Path, *, text_only: bool) -> None:
    """Use the older class name of fast tokenizers, and the older key of a list of special tokens.

    A model of text alone names no processor: Gemma's is of images, and `transformers serve` looks for the
    files of one.
    """
    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):  # a dict of names is read by both
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if text_only:
        config.pop("processor_class", None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_sentencepiece(tokenizer: Any, packed: Path, model: ModelRecipe, folder: Path) -> None:
    """Copy ``tokenizer.model`` of the pack, or of the tokenizer's source where that has the same vocabulary.

    llama.cpp's converter reads the vocabulary of Gemma from this file alone.
    """
    found: Path | None = packed / SENTENCEPIECE
    if not (packed / SENTENCEPIECE).is_file() and model.tokenizer_source is not None:
        found = _source_file(*model.tokenizer_source)
        if found is None or load_tokenizer(*model.tokenizer_source).get_vocab() != tokenizer.get_vocab():
            return
    if found is not None and found.is_file():
        shutil.copyfile(found, folder / SENTENCEPIECE)


def _source_file(name: str, revision: str) -> Path | None:
    """The SentencePiece model of a tokenizer in a folder, or in the cache: packing has downloaded it."""
    if (source := Path(name).expanduser()).is_dir():
        return source / SENTENCEPIECE if (source / SENTENCEPIECE).is_file() else None
    found = try_to_load_from_cache(name, SENTENCEPIECE, revision=revision)
    return Path(found) if isinstance(found, str) else None
