"""What the run's own model computes on validation rows: the values that every reader has to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemfit.data.document import IGNORED
from gemfit.evaluate.generation import prompt_ids
from gemfit.evaluate.models import LoadedModel, find_models, for_generation, open_packed, plan_here
from gemfit.evaluate.run_evaluation import EvaluationInputs, EvaluationSettings, make_inputs
from gemfit.evaluate.samples import ReplyPrompt
from gemfit.export_check import probe
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import SampleMessage
from gemfit.train.data.batches import batch_of

DEVICE = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ExpectedValues:
    """Values of the run's own model, and the input they are of."""

    case: dict[str, Any]
    """Input of ``probe``: documents with labels, prompts, tokens of a reply."""
    losses: list[float]
    """Sums over the labelled tokens of each document, in nats."""
    labelled: list[int]
    """Labelled tokens of each document."""
    prompts: list[list[int]]
    replies: list[list[int]]
    texts: list[str]
    """Of the replies, without special tokens."""
    stops: list[int]
    step: int

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(prompt) for prompt in self.prompts]

    @property
    def stopped(self) -> list[bool]:
        """Whether each reply ends at a stop token."""
        return [bool(reply) and reply[-1] in self.stops for reply in self.replies]


def expected_values(
    run: RunDir, checkpoint: str, dtype: str | None, *, rows: int, samples: int, max_new_tokens: int
) -> ExpectedValues:
    """Loss of ``rows`` packed rows, document by document, and greedy replies to ``samples`` prompts.

    One more prompt is a later turn, where none of them is. On the CPU in float32, with weights that are
    rounded to ``dtype`` as the export has them; ``None``: not rounded.
    """
    plan = plan_here(run, DEVICE)
    split = "validation" if plan.recipe.data.has_validation else "train"
    settings = EvaluationSettings(split=split, rows=rows, samples=samples, max_new_tokens=max_new_tokens)
    inputs = make_inputs(run, settings, DEVICE)
    (ref,) = find_models(run, [checkpoint])
    model = open_packed(run, ref, DEVICE).float()
    if dtype is not None:
        _round(model, getattr(torch, dtype))
    measured = [found for row in inputs.rows.tolist() for found in _row_losses(model, inputs, row)]
    loaded = for_generation(run, model)
    conversations = with_later_turn(inputs.prompts)
    messages = [[message.model_dump() for message in conversation] for conversation in conversations]
    prompts = [prompt_ids(loaded.tokenizer, conversation) for conversation in conversations]
    replies = _replies(loaded, prompts, max_new_tokens)
    assert ref.step is not None, "a checkpoint has a step"
    return ExpectedValues(
        case={
            "documents": [document for document, _ in measured],
            "prompts": messages,
            "max_new_tokens": max_new_tokens,
        },
        losses=[loss for _, loss in measured],
        labelled=[sum(label != IGNORED for label in found["labels"][1:]) for found, _ in measured],
        prompts=prompts,
        replies=replies,
        texts=[loaded.tokenizer.decode(reply, skip_special_tokens=True) for reply in replies],
        stops=probe.stops(loaded.model),
        step=ref.step,
    )


def with_later_turn(prompts: Sequence[ReplyPrompt]) -> list[tuple[SampleMessage, ...]]:
    """The messages of ``prompts``, and a conversation that goes on after its first reply.

    A template may write later turns in another way, which prompts of one turn do not show. Where none has a
    reply in it, the shortest goes on with its own reply and its last message again.
    """
    found = [prompt.prompt for prompt in prompts]
    if found and not any(message.role == "assistant" for messages in found for message in messages):
        first = min(prompts, key=lambda one: len(one.reference) + sum(len(m.content) for m in one.prompt))
        reply = SampleMessage(role="assistant", content=first.reference)
        found.append((*first.prompt, reply, first.prompt[-1]))
    return found


def _round(model: Any, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


def _row_losses(model: Any, inputs: EvaluationInputs, number: int) -> Iterator[tuple[dict[str, Any], float]]:
    """Each document of a row that has labelled tokens, with the sum of its losses in the packed row."""
    batch = batch_of(inputs.pack, np.array([number]), inputs.plan, inputs.pad_id)
    with torch.no_grad():
        losses = model(**batch, per_token=True).losses.reshape(-1).double()
    row, start = inputs.pack[number], 0
    for length in row.seq_lengths.tolist():
        stop = start + length
        ids, labels = row.input_ids[start:stop].tolist(), row.labels[start:stop].tolist()
        if any(label != IGNORED for label in labels[1:]):
            # The loss of a token stands one place earlier, where it is predicted.
            places = [start + place - 1 for place in range(1, length) if labels[place] != IGNORED]
            yield {"ids": ids, "labels": labels}, float(losses[places].sum())
        start = stop


def _replies(loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    with torch.no_grad():
        return [probe.reply(loaded.model, loaded.tokenizer, ids, max_new_tokens) for ids in prompts]


def dtype_of(folder: Path, config: dict[str, Any]) -> str | None:
    """Type of the weights of an exported model; ``None`` for an adapter, whose base is not rounded."""
    if (folder / "adapter_config.json").is_file():
        return None
    return str(config["dtype"])
