"""Slices of rows against whole rows, and planted faults, on four real ranks over gloo.

    python tests/train/sequence_cases.py --json

Each rank passes whole rows through a tiny Gemma 3, and slices of them with exchanged heads: logits, loss and
gradients are compared for degrees, attentions, windows and documents. Then each fault is planted, and the
self-test says what it finds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# isort: split
import numpy as np
import torch
import torch.distributed as dist
import transformers.modeling_flash_attention_utils as flash
from torch.nn.attention import varlen
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from gemfit.data.pack.reader import Row
from gemfit.evaluate.turn_losses import TurnSpan
from gemfit.evaluate.validation import make_row_group, turn_sums
from gemfit.train.checks import selftest, sequence_selftest
from gemfit.train.data.collate import Tensors, collate, needs_boundaries
from gemfit.train.data.row_slices import slice_rows
from gemfit.train.model import packed_lm, ulysses
from gemfit.train.model.attention_functions import register_attention
from gemfit.train.sequence_group import SequenceGroup, make_sequence_group
from gemfit.train.trainer_view import SelfTestError
from train.tiny_gemma import tiny_gemma
from train.varlen_reference import reference

RANKS, SEQ_LEN = 4, 64
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
"""Of degree 2 keys and values are exchanged as they are, of degree 4 each is sent twice."""
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "varlen")
WINDOWS = {"shorter than a slice": 5, "as long as a slice": 16, "longer than a slice": 40}
DOCUMENTS = {
    "across every border": (10, 30, 1, 16, 7),
    "as long as the row": (64,),
    "from border to border": (16, 16, 32),
    "with padding": (20, 23),
}


def cases(groups: dict[int, SequenceGroup]) -> Iterator[dict[str, Any]]:
    """Differences between slices and whole rows, for every combination."""
    for attention, (window, width) in itertools.product(ATTENTIONS, WINDOWS.items()):
        model = make_model(attention, sliding_window=width)
        for documents, lengths in DOCUMENTS.items():
            batch = collate(
                [make_row(lengths, seed=1), make_row(lengths, seed=2)],
                seq_len=SEQ_LEN,
                pad_id=0,
                flatten=needs_boundaries(attention),
            )
            expected = passed(model, batch)
            for degree, group in groups.items():
                found = passed(model, slice_rows(batch, group), group)
                case = {"degree": degree, "attention": attention, "window": window, "documents": documents}
                yield case | differences(found, expected)


def flex_cases(groups: dict[int, SequenceGroup]) -> Iterator[dict[str, Any]]:
    """Differences of the logits of flex_attention, which has no backward pass on CPUs."""
    model = make_model("flex_attention", sliding_window=16).eval()
    for documents, lengths in DOCUMENTS.items():
        batch = collate([make_row(lengths, seed=1)], seq_len=SEQ_LEN, pad_id=0, flatten=False)
        expected = {"logits": logits_of(model, batch)}
        for degree, group in groups.items():
            found = {"logits": group.gather(logits_of(model, slice_rows(batch, group)))}
            yield {"degree": degree, "documents": documents} | differences(found, expected)


def passed(model: Any, batch: Tensors, group: SequenceGroup | None = None) -> dict[str, Any]:
    """Logits, loss and gradients of one pass, of whole rows."""
    model.zero_grad()
    loss = model(**batch).loss_sum
    loss.backward()
    logits = logits_of(model, batch)
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    loss = loss.detach()
    if group is not None:
        logits = group.gather(logits)
        dist.all_reduce(loss, group=group.group)
        dist.all_reduce(gradients, group=group.group)
    return {"logits": logits, "loss": loss, "gradients": gradients}


@torch.no_grad()
def logits_of(model: Any, batch: Tensors) -> torch.Tensor:
    logits: torch.Tensor = model(**{name: value for name, value in batch.items() if name != "targets"}).logits
    return logits


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Relative, of each result."""
    return {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}


def make_model(attention: str, **sizes: Any) -> Any:
    """Equal on every rank, with attention that exchanges heads."""
    torch.manual_seed(0)
    model = tiny_gemma(attention, **HEADS, **sizes)
    # Weights of usual size: a model as it is initialized hardly looks at other tokens.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    ulysses.use_sequence_parallel(model, RANKS)
    return model.train()


def make_row(lengths: tuple[int, ...], seed: int) -> Row:
    ids = np.random.default_rng(seed).integers(1, 64, SEQ_LEN).astype(np.int32)
    return Row(ids, ids.copy(), np.array(lengths, np.int32))


def flash_kernel(
    query: Any, key: Any, value: Any, *, cu_seqlens_q: Any, window: int, scale: float, **_: Any
) -> Any:
    """FlashAttention's function for several documents, by a mask: (tokens, heads, width)."""
    places = torch.arange(len(query))
    document = torch.bucketize(places, cu_seqlens_q, right=True)
    distance = places[:, None] - places
    seen = (document[:, None] == document) & (distance >= 0) & (distance < (window or len(query)))
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def use_stand_ins() -> None:
    """References in place of the kernels of FlashAttention and of torch."""

    def supported(**given: Any) -> dict[str, Any]:
        return {"window": given["sliding_window"], "scale": given["softmax_scale"]}

    functions = (None, flash_kernel, None, None, None), (supported, None)
    mock.patch.object(flash, "lazy_import_flash_attention", return_value=functions).start()
    mock.patch.object(varlen, "varlen_attn", reference).start()


# --- evaluation


def evaluations(groups: dict[int, SequenceGroup]) -> dict[str, Any]:
    """Of ``gemfit eval``, by degree: ranks that share a row, and what differs from whole rows."""
    rows = [make_row(lengths, seed) for seed, lengths in enumerate(DOCUMENTS.values(), 1)]
    turns = {
        number: [TurnSpan(number, "user", 0, 0, 25), TurnSpan(number, "assistant", 1, 25, SEQ_LEN)]
        for number in range(len(rows))
    }
    found = {}
    for attention in ("sdpa", "varlen"):
        for degree in (1, *groups):
            model = make_model(attention, sliding_window=16).eval()
            plan: Any = SimpleNamespace(
                batch=SimpleNamespace(per_device_batch_size=2, seq_len=SEQ_LEN, sequence_parallel=degree),
                recipe=SimpleNamespace(model=SimpleNamespace(attention=attention, compile=False)),
            )
            group = make_row_group(model, plan)
            sums = turn_sums(
                model,
                plan,
                rows,  # type: ignore[arg-type]
                np.arange(len(rows)),
                turns,
                pad_id=0,
                progress=lambda done: None,
                sequence=group,
            )
            found[f"{attention}, {degree}"] = {
                "degree": group.degree,
                "document": sums.document.tolist(),
                "turn": sums.turn.tolist(),
                "tokens": sums.tokens.tolist(),
                "hits": sums.hits.tolist(),
                "loss": sums.loss.tolist(),
            }
    return found


# --- faults


def stand_in_of_trainer(group: SequenceGroup) -> Any:
    """What the self-test looks at."""
    model = make_model("sdpa", sliding_window=16)

    def compute_loss(model: Any, inputs: Tensors) -> Any:
        step_tokens = inputs.pop("step_tokens")
        return model(**inputs).loss_sum / step_tokens

    recipe = SimpleNamespace(
        model=SimpleNamespace(dtype="float32", attention="sdpa", compile=False, quantization=None),
        strategy=SimpleNamespace(engine=None),
    )
    return SimpleNamespace(
        model_wrapped=model,
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        args=SimpleNamespace(device=torch.device("cpu")),
        plan=SimpleNamespace(recipe=recipe, batch=SimpleNamespace(seq_len=SEQ_LEN, world_size=1)),
        pad_id=0,
        sequence=group,
        compute_loss=compute_loss,
        take_step_loss=lambda: 0.0,
    )


def full_masks(model: Any, positions: torch.Tensor) -> Any:
    masks = ulysses.row_masks(model, positions)
    return dict.fromkeys(masks, masks["full_attention"])


def local_positions(batch: Tensors, sequence: SequenceGroup) -> Tensors:
    sliced = slice_rows(batch, sequence)
    local = torch.arange(sliced["position_ids"].shape[1]).expand_as(sliced["position_ids"])
    return sliced if sequence.degree == 1 else sliced | {"position_ids": local}


def other_slice(batch: Tensors, sequence: SequenceGroup) -> Tensors:
    swapped = SequenceGroup(sequence.group, sequence.degree - 1 - sequence.place, sequence.degree)
    return slice_rows(batch, swapped)


def exchanged_in_other_order(slices: Any, group: Any) -> Any:
    degree = dist.get_world_size(group)
    return tuple(torch.cat(rows.chunk(degree, 2)[::-1], 2) for rows in rows_of_some_heads(slices, group))


def one_head_wrong(rows: torch.Tensor, group: Any) -> torch.Tensor:
    slices = slices_of_all_heads(rows, group).clone()
    slices[:, :, 1] = slices[:, :, 0]
    return slices


def no_way_back(ctx: Any, gradient: torch.Tensor) -> Any:
    return None, gradient


rows_of_some_heads, slices_of_all_heads = ulysses.rows_of_some_heads, ulysses.slices_of_all_heads


def rotary_from_zero() -> AbstractContextManager[Any]:
    """Rotary positions that begin at 0 in every slice."""
    own = Gemma3RotaryEmbedding.forward

    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor, *rest: Any) -> Any:
        if x.shape[1] < LONGEST_SLICE:
            position_ids = torch.arange(x.shape[1])[None].expand_as(position_ids)
        return own(self, x, position_ids, *rest)

    return mock.patch.object(Gemma3RotaryEmbedding, "forward", forward)


LONGEST_SLICE = 20
"""Whole rows of the self-test are longer, and slices shorter."""

FAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "mask dropped": lambda: mock.patch.object(
        packed_lm, "row_masks", return_value={"full_attention": None, "sliding_attention": None}
    ),
    "window dropped": lambda: mock.patch.object(packed_lm, "row_masks", full_masks),
    "positions local to the slice": lambda: mock.patch.object(
        sequence_selftest, "slice_rows", local_positions
    ),
    "rotary positions local to the slice": rotary_from_zero,
    "slices swapped": lambda: mock.patch.object(sequence_selftest, "slice_rows", other_slice),
    "slices swapped in the exchange": lambda: mock.patch.object(
        ulysses, "rows_of_some_heads", exchanged_in_other_order
    ),
    "one head wrong": lambda: mock.patch.object(ulysses, "slices_of_all_heads", one_head_wrong),
    "gradients not exchanged": lambda: mock.patch.object(
        ulysses._AllToAll, "backward", staticmethod(no_way_back)
    ),
}


def findings(group: SequenceGroup) -> dict[str, Any]:
    """What the self-test says of a sound trainer, and of each fault; ``None`` where it finds nothing."""
    trainer = stand_in_of_trainer(group)
    found: dict[str, Any] = {"none": checked(trainer)}
    for name, planted in FAULTS.items():
        with planted():
            found[name] = checked(trainer)
    return found


def checked(trainer: Any) -> str | None:
    try:
        with torch.no_grad():
            sequence_selftest.check_slices(trainer)
        selftest.check_gradient_of_slices(selftest.gradient_of_slices(trainer), "float32")
    except SelfTestError as error:
        return str(error)
    return None


# --- ranks


def rank_main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    register_attention()
    use_stand_ins()
    torch.compiler.set_stance("force_eager")  # to compile flex_attention takes minutes
    groups = {degree: make_sequence_group(degree) for degree in (2, 4)}
    result = {
        "cases": list(cases(groups)),
        "flex": list(flex_cases(groups)),
        "evaluations": evaluations(groups),
        "faults": {str(degree): findings(group) for degree, group in groups.items()},
    }
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(result))


def main() -> int:
    """Print what rank 0 found; 1 where a rank failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pids = [fork(rank, Path(scratch)) for rank in range(RANKS)]
        codes = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(codes):
            return 1
        print((Path(scratch) / "0.json").read_text())
    return 0


def fork(rank: int, folder: Path) -> int:
    if pid := os.fork():
        return pid
    try:
        rank_main(rank, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
