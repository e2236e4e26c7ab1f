"""Find the source of the Hugging Face Hub token. Its value is never stored or shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables that huggingface_hub reads, in its order."""


def token_source(env: Mapping[str, str] = os.environ) -> str | None:
    """Name of the variable or file that huggingface_hub would read; ``None`` without a token."""
    for name in NAMES:
        if env.get(name, "").strip():
            return name
    path = token_file(env)
    return str(path) if path.is_file() and path.stat().st_size else None


def token_file(env: Mapping[str, str]) -> Path:
    """File of `hf auth login`, as huggingface_hub.constants defines it."""
    cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(env.get("HF_HOME") or cache / "huggingface").expanduser()
    return Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
