"""Merge a trained text model back into the multimodal checkpoint that it was taken from.

Names are those of the base's files, whatever version of transformers wrote them; vision tower and
projector are copied as they are, so that everything which reads the base reads the result.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from gemfit.core.json_file import read_json_object
from gemfit.errors import UserError
from gemfit.export.older_readers import with_old_keys
from gemfit.export.weights import Weights, together
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.train.model.build import base_architecture, open_base
from gemfit.train.model.safetensors_reader import BaseWeights

CONFIG = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""What prepares images. The chat template is the tokenizer's, which is the trained one."""
DTYPE_KEYS = ("dtype", "torch_dtype")
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
TORCH_TYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}


class MultimodalBase(NamedTuple):
    """The checkpoint that the text part was taken from."""

    name: str
    revision: str
    weights: BaseWeights


def find_base(recipe: ModelRecipe) -> MultimodalBase | None:
    """The base model of ``recipe`` where it is multimodal, else ``None``."""
    if recipe.id is None or recipe.gguf_file is not None or not base_architecture(recipe).is_multimodal:
        return None
    opened = open_base(recipe)
    assert opened.weights is not None
    return MultimodalBase(opened.model.name_or_path, recipe.revision, opened.weights)


def nested(text: Weights, base: BaseWeights) -> Weights:
    """``text`` under its names in the files of ``base``, and what the text model had left out."""
    names = {entry.key: name for name, entry in base.entries.items()}
    if set(names.values()) != set(text.shapes):
        differing = sorted(set(names.values()) ^ set(text.shapes))
        raise RuntimeError(f"the text model and its base do not have the same weights: {differing[:5]}")

    def fetch(keys: list[str]) -> dict[str, torch.Tensor]:
        found = text.fetch([names[key] for key in keys])
        return {key: found[names[key]] for key in keys}

    return together(
        Weights({key: text.shapes[name] for key, name in names.items()}, fetch), _other_parts(base)
    )


def _other_parts(base: BaseWeights) -> Weights:
    entries = base.left_out

    def fetch(keys: list[str]) -> dict[str, torch.Tensor]:
        found = {}
        for key in keys:
            with safe_open(entries[key].file, framework="pt") as opened:
                found[key] = opened.get_tensor(key).clone()
        return found

    for entry in entries.values():
        if entry.dtype not in TORCH_TYPES:
            raise UserError(
                f"{entry.file}: {entry.key} is stored as {entry.dtype}, which --multimodal does not copy; "
                "leave it out"
            )
    types = {key: TORCH_TYPES[entry.dtype] for key, entry in entries.items()}
    return Weights({key: entry.shape for key, entry in entries.items()}, fetch, types)


def write_rest(base: MultimodalBase, folder: Path, dtype: str) -> None:
    """The base's configuration with ``dtype`` in it, and the files of its processor."""
    config = read_json_object(Path(str(_file(base, CONFIG))))
    (folder / CONFIG).write_text(json.dumps(with_old_keys(_with_dtype(config, dtype)), indent=2) + "\n")
    for name in PROCESSOR_FILES:
        if (found := _file(base, name)) is not None:
            shutil.copyfile(found, folder / name)


def nest_adapter(folder: Path) -> None:
    """Rename a saved adapter's modules to where they are inside the multimodal model in memory."""
    weights = {
        re.sub(r"^base_model\.model\.model\.", "base_model.model.model.language_model.", key): tensor
        for key, tensor in load_file(folder / ADAPTER).items()
    }
    save_file(weights, folder / ADAPTER, metadata={"format": "pt"})
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    # By name alone, layers of the vision tower would be meant too.
    config["target_modules"] = rf".*\.language_model\..*\.(?:{'|'.join(sorted(config['target_modules']))})"
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """``config`` and the configurations inside it, which may say a type of their own."""
    changed = {
        key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()
    }
    changed |= {key: dtype for key in DTYPE_KEYS if key in config}
    if "model_type" in config and "architectures" in config and not any(key in config for key in DTYPE_KEYS):
        changed["dtype"] = dtype
    return changed


def _file(base: MultimodalBase, name: str) -> str | None:
    found = cached_file(base.name, name, revision=base.revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else str(found)
