"""Whether there is a token for the Hugging Face Hub, and where from. Its value is never kept or shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables that huggingface_hub reads, first one first."""


def token_source(env: Mapping[str, str] = os.environ) -> str | None:
    """Where huggingface_hub would find a token, in words; ``None`` where it would find none."""
    for name in NAMES:
        if env.get(name, "").strip():
            return name
    path = token_file(env)
    return str(path) if path.is_file() and path.stat().st_size else None


def token_file(env: Mapping[str, str]) -> Path:
    """Where `hf auth login` keeps it, as huggingface_hub.constants decides that."""
    cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(env.get("HF_HOME") or cache / "huggingface").expanduser()
    return Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
