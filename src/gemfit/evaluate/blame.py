"""``python -m gemfit.evaluate.blame RUN --step N|--worst K``: the conversations that a step trained.

The row ledger says which rows were fed, the pack which conversations stand in them and where they come from;
each one's loss is computed with a checkpoint of the run. Exit status 0, or 2 with ``error: …`` on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gemfit.control_characters import escape_control_characters
from gemfit.core.jsonl_log import read_log
from gemfit.core.module_main import run_main
from gemfit.data.inspect.document_ids import document_lines
from gemfit.data.inspect.pack_files import Pack, open_pack_files
from gemfit.data.inspect.row_documents import chunks_of_row
from gemfit.data.pack.reader import open_pack
from gemfit.data.pack.shuffle import EMPTY
from gemfit.data.tokenize.tokenizer import pad_id
from gemfit.errors import ExitCode, UserError
from gemfit.evaluate.models import find_models, open_packed, plan_here
from gemfit.evaluate.turn_losses import TurnSpan
from gemfit.evaluate.validation import TurnSums, turn_sums
from gemfit.export.export import packed_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.schemas.metrics import LedgerRecord, StepRecord
from gemfit.schemas.metrics_history import read_history

NEIGHBOURS = 10
"""Steps before and after one, whose median loss its own is compared with: the loss falls during a run."""


class BlamedConversation(Contract):
    """What one conversation contributes to a step."""

    place: str
    """Its file and line."""
    document: int
    """Its number in the pack, for `gemfit data inspect --document`."""
    rows: tuple[int, ...]
    loss: float
    """Mean cross-entropy of its trained tokens in these rows, in nats, with the checkpoint."""
    trained_tokens: int


class BlamedStep(Contract):
    """A step and the conversations that it trained, highest loss first."""

    step: int
    loss: float
    """As it was recorded in training."""
    usual_loss: float
    """Median of the steps around it."""
    model: str
    """With which the losses of the conversations were computed."""
    conversations: tuple[BlamedConversation, ...]


def blame(
    run: RunDir, steps: Sequence[StepRecord], checkpoint: str, usual: Sequence[float]
) -> list[BlamedStep]:
    """The conversations of ``steps``, each with its loss under ``checkpoint``; ``usual``: their medians."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan, fed = plan_here(run, device), rows_of_steps(run)
    files, (ref,) = open_pack_files(Path(plan.pack.folder)), find_models(run, [checkpoint])
    model = open_packed(run, ref, device)
    pack, pad = open_pack(Path(plan.pack.folder), "train"), pad_id(packed_tokenizer(run))
    made = []
    for record, median in zip(steps, usual, strict=True):
        if record.step not in fed:
            raise UserError(f"{run.ledger_file}: has no record of step {record.step}")
        rows = fed[record.step]
        spans = document_spans(files, rows)
        sums = turn_sums(model, plan, pack, rows, spans, pad_id=pad, progress=lambda done: None)
        conversations = _conversations(files, sums, spans)
        made.append(
            BlamedStep(
                step=record.step,
                loss=record.loss,
                usual_loss=median,
                model=ref.name,
                conversations=conversations,
            )
        )
    return made


def choose_steps(run: RunDir, steps: Sequence[int], worst: int) -> tuple[list[StepRecord], list[float]]:
    """Records of the ``steps``, else of the ``worst`` many, and the median loss around each.

    The worst are those whose loss exceeds the median of its neighbours most. ``UserError`` for a step that is
    not recorded.
    """
    records = read_history(run.metrics_file).steps
    losses = np.array([record.loss for record in records])
    usual = [_median_around(losses, place) for place in range(len(records))]
    places = {record.step: place for place, record in enumerate(records)}
    for step in steps:
        if step not in places:
            raise UserError(
                f"--step {step}: is not recorded; {run.metrics_file} has steps {records[0].step} to "
                f"{records[-1].step}, every {run.plan().recipe.tracking.log_every_steps}"
            )
    chosen = [places[step] for step in steps] or np.argsort(np.array(usual) - losses, kind="stable")[:worst]
    return [records[place] for place in chosen], [usual[place] for place in chosen]


def _median_around(losses: NDArray[np.float64], place: int) -> float:
    """Median of the losses around ``place``, as many before as after it: else a falling loss would count."""
    width = min(NEIGHBOURS, place, len(losses) - 1 - place)
    return float(np.median(losses[place - width : place + width + 1]))


def rows_of_steps(run: RunDir) -> dict[int, NDArray[np.int64]]:
    """The rows that each step was fed with, as its last attempt did; idle slots left out."""
    if not run.ledger_file.is_file():
        raise UserError(f"{run.ledger_file}: there is no such file; it appears with the first step")
    records = read_log(run.ledger_file, LedgerRecord.model_validate_json)
    found = {record.step: np.array(record.rows, np.int64) for record in records}
    return {step: rows[rows != EMPTY] for step, rows in found.items()}


def document_spans(files: Pack, rows: NDArray[np.int64]) -> dict[int, list[TurnSpan]]:
    """By row: the places of each conversation in it, (start, stop) in tokens."""
    return {int(row): _spans_of_row(files, int(row)) for row in rows}


def _spans_of_row(files: Pack, row: int) -> list[TurnSpan]:
    # The number of the row takes the place of a turn's: sums are kept apart by it.
    return [
        TurnSpan(chunk.document, "", row, chunk.begin, chunk.begin + len(chunk))
        for chunk in chunks_of_row(files, row)
    ]


def _conversations(
    files: Pack, sums: TurnSums, spans: dict[int, list[TurnSpan]]
) -> tuple[BlamedConversation, ...]:
    rows: dict[int, set[int]] = defaultdict(set)
    for row, of_row in spans.items():
        for span in of_row:
            rows[span.document].add(row)
    found, (documents, problems) = [], document_lines(files)
    if problems:
        raise UserError(f"{problems[0]}; delete {files.folder} and pack again")
    for document in np.unique(sums.document).tolist():
        own = sums.document == document
        tokens = int(sums.tokens[own].sum())
        found.append(
            BlamedConversation(
                place=files.place(int(documents.lines[document])),
                document=document,
                rows=tuple(sorted(rows[document])),
                loss=float(sums.loss[own].sum()) / tokens,
                trained_tokens=tokens,
            )
        )
    return tuple(sorted(found, key=lambda one: -one.loss))


def main(argv: list[str] | None = None) -> int:
    """Parse the options, find the conversations, print them."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.evaluate.blame", description=blame.__doc__)
    parser.add_argument("run", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, action="append", default=[], help="a step; repeatable")
    which.add_argument("--worst", type=int, default=0, help="so many steps of unusually high loss")
    parser.add_argument("--checkpoint", default="latest", help="whose loss each conversation gets")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return run_main(lambda: _blame(arguments))


def _blame(arguments: argparse.Namespace) -> ExitCode:
    run = RunDir.open(arguments.run)
    steps, usual = choose_steps(run, arguments.step, arguments.worst)
    found = blame(run, steps, arguments.checkpoint, usual)
    if arguments.json:
        sys.stdout.write(json.dumps([step.model_dump(mode="json") for step in found], indent=2) + "\n")
    else:
        sys.stdout.write(escape_control_characters("\n".join(map(describe, found))))
    return ExitCode.DONE


def describe(step: BlamedStep) -> str:
    """A step as text: a line for each conversation, highest loss first."""
    lines = [
        f"step {step.step}: loss {step.loss:.4f}, {step.usual_loss:.4f} in the steps around it; "
        f"losses of its conversations with {step.model}:"
    ]
    lines += [
        f"  {one.loss:8.4f}  {one.trained_tokens:6,} trained tokens  {one.place}  "
        f"(document {one.document}, row {', '.join(map(str, one.rows))})"
        for one in step.conversations
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
