"""Logits of a packed row under sequence parallelism, at the real size of Gemma 3 270M with random weights.

    python benchmarks/sequence_parallel.py [--tokens 4096] [--json]

One rank passes the whole row through the model; then 2 and 4 ranks pass their slices, over
gloo in float32. Every logit of every token is compared. For scale, the same with the sliding window and with
the borders of documents left out, where a quarter of the logits is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
import torch
import torch.distributed as dist
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.pack.reader import Row
from gemfit.train.data.collate import Tensors, collate
from gemfit.train.data.row_slices import slice_rows
from gemfit.train.model import packed_lm
from gemfit.train.model.attention_functions import register_attention
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.ulysses import row_masks, use_sequence_parallel
from gemfit.train.sequence_group import make_sequence_group

SIZES: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
}
SHARES = (0.37, 0.17, 0.0, 0.31)
"""Of the documents in the row, one token more each; the rest is the last document."""
DEGREES = (2, 4)
CHUNK = 256
"""Tokens whose logits exist at a time."""
FAULTS: dict[str, Callable[..., Any]] = {
    "without the window": lambda model, positions: _same(row_masks(model, positions)),
    "without the borders of documents": lambda model, positions: row_masks(
        model, torch.arange(positions.shape[1])[None]
    ),
}


def _same(masks: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(masks, masks["full_attention"])


def make_model() -> Any:
    torch.manual_seed(0)
    model = packed_class(Gemma3ForCausalLM)(Gemma3TextConfig(**SIZES))
    model.config._attn_implementation = "sdpa"
    return model.eval()


def make_batch(tokens: int) -> Tensors:
    lengths = [int(share * tokens) + 1 for share in SHARES]
    lengths.append(tokens - sum(lengths))
    ids = np.random.default_rng(1).integers(1, SIZES["vocab_size"], tokens).astype(np.int32)
    row = Row(ids, ids, np.array(lengths, np.int32))
    return collate([row], seq_len=tokens, pad_id=0, flatten=False)


@torch.no_grad()
def hidden_of(model: Any, batch: Tensors) -> torch.Tensor:
    """The last hidden states: (tokens, width)."""
    found: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda *seen: found.append(seen[2].last_hidden_state))
    model(**{name: value for name, value in batch.items() if name != "targets"}, logits_to_keep=1)
    hook.remove()
    return found[0][0]


@torch.no_grad()
def largest_difference(
    model: Any, found: torch.Tensor, expected: torch.Tensor, every: int = 1
) -> list[float]:
    """Of the logits of each ``every``-th chunk, and the largest logit."""
    difference = largest = 0.0
    for mine, whole in zip(found.split(CHUNK)[::every], expected.split(CHUNK)[::every], strict=True):
        logits = model.lm_head(whole)
        largest = max(largest, float(logits.abs().max()))
        difference = max(difference, float((model.lm_head(mine) - logits).abs().max()))
    return [difference, largest]


def rank_main(model: Any, batch: Tensors, folder: Path, rank: int, degree: int) -> None:
    """Compare this rank's slice, and those of planted faults at degree 2."""
    store = f"file://{folder}/store-{degree}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=degree)
    use_sequence_parallel(model, degree)
    expected = torch.load(folder / "whole.pt").chunk(degree)[rank]
    slices = slice_rows(batch, make_sequence_group(degree))
    result = {"exact": largest_difference(model, hidden_of(model, slices), expected)}
    for name, masks in FAULTS.items() if degree == DEGREES[0] else []:
        packed_lm.row_masks = masks
        result[name] = largest_difference(model, hidden_of(model, slices), expected, every=4)
    (folder / f"{degree}-{rank}.json").write_text(json.dumps(result))
    dist.barrier()


def forked(action: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    try:
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def measure(tokens: int, folder: Path) -> dict[str, dict[str, float]]:
    """The largest difference of a logit, and the largest logit, by degree and by fault."""
    register_attention()
    model, batch = make_model(), make_batch(tokens)
    ended = [os.waitpid(forked(lambda: torch.save(hidden_of(model, batch), folder / "whole.pt")), 0)[1]]
    found: dict[str, dict[str, float]] = {}
    for degree in DEGREES:
        pids = [
            forked(lambda rank=rank, degree=degree: rank_main(model, batch, folder, rank, degree))  # type: ignore[misc]
            for rank in range(degree)
        ]
        ended += [os.waitpid(pid, 0)[1] for pid in pids]
        if any(ended):
            sys.exit("a rank has failed")
        ranks = [json.loads((folder / f"{degree}-{rank}.json").read_text()) for rank in range(degree)]
        for name in ranks[0]:
            difference, largest = (max(values) for values in zip(*(one[name] for one in ranks), strict=True))
            label = f"degree {degree}" + ("" if name == "exact" else f", {name}")
            found[label] = {"difference": difference, "largest_logit": largest}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.tokens, Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    for label, values in found.items():
        print(f"{label}: {values['difference']:.2e} of logits up to {values['largest_logit']:.2f}")


if __name__ == "__main__":
    main()
