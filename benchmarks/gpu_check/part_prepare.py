"""Prepare: conversations, a tokenizer trained on them, and model folders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import SMALL, TINY, TINY_RECIPE, Scale, published_config, save_model

from gemfit.schemas.pack_job import make_pack_job
from gemfit_launch.bench.synthetic_data import write_conversations
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack

PUBLISHED = ("1b", "4b")


def measure(scale: Scale) -> dict[str, Any]:
    """Write everything that the other parts read."""
    count = write_conversations(scale.data, seq_len=scale.seq_len, rows=40 if scale.dry else 400)
    tokenizer = _tokenizer(scale)
    if scale.dry:
        configs = {"tiny": TINY}
    else:
        configs = {"small": SMALL, "wide": SMALL | {"vocab_size": 262_144}}
        configs |= {size: published_config(size) for size in PUBLISHED}
    for name, config in configs.items():
        save_model(scale, name, config, tokenizer)
    return {"conversations": count, "models": list(configs)}


def _tokenizer(scale: Scale) -> Path:
    """The tokenizer of a pack for a model from scratch, which is trained on the conversations."""
    settings = (f"model.scratch.vocab_size={TINY['vocab_size']}", f"data.seq_len={scale.seq_len}")
    recipe = Request(name=TINY_RECIPE, settings=settings, data=str(scale.data)).recipe()
    folder = Path(resolve_plan(recipe, Ranks(nproc=1, device=scale.device)).pack.folder)
    ensure_pack(make_pack_job(recipe), folder, force=False, say=lambda line: None)
    return folder / "tokenizer"
