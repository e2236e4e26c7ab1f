"""Training, speed, attempts and checkpoints of a run in a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from gemfit.report.blocks import Block, Charts, Missing, Note, Section
from gemfit.report.curves import training_charts
from gemfit.report.folds import fold_long
from gemfit.report.load import RunReport
from gemfit.report.speed_charts import speed_charts
from gemfit.summary.attempts import attempt_table, start_table
from gemfit.summary.format import NOTHING, duration, number, plural, size
from gemfit.summary.plan import plan_changes
from gemfit.summary.text_table import TextTable

NAMED = 20
"""Most numbers of attempts that are listed."""


def training(run: RunReport) -> Section:
    """Losses, learning rate, gradients."""
    return Section("training", "Training", (Charts(training_charts(run)), _validation(run)))


def speed(run: RunReport) -> Section:
    """Tokens/s, MFU, breakdown of the wall time, memory."""
    blocks: list[Block] = [Charts(speed_charts(run))]
    for record in run.history.slow_ranks[:NAMED]:
        blocks.append(Note(f"Attempt {record.attempt}: {record.text}.", "warn"))
    if run.facts.no_mfu:
        blocks.append(Note(f"MFU is not shown: {run.facts.no_mfu}."))
    if run.history.memory:
        blocks.append(_memory(run))
    else:
        blocks.append(Missing("No memory is recorded: no attempt has ended in order."))
    return Section("speed", "Speed and memory", tuple(blocks))


def attempts(run: RunReport) -> Section:
    """Time, plan and outcome of each attempt."""
    table = attempt_table(run.attempts)
    outcomes = (
        (one.outcome, " on ".join(filter(None, [one.reason, ", ".join(one.nodes)])) or NOTHING)
        for one in run.attempts
    )
    repeated = (f"{sum(one.repeats):,}" for one in run.attempts)
    rows = tuple((*row, *end, n) for row, end, n in zip(table.rows, outcomes, repeated, strict=True))
    heads = (*table.heads, "outcome", "reason", "repeated")
    blocks: list[Block] = [fold_long(replace(table, heads=heads, rows=rows))]
    if any(one.start for one in run.attempts):
        blocks.append(fold_long(start_table(run.attempts)))
    unrecorded = sorted(set(range(1, run.folder.attempt + 1)) - {one.number for one in run.attempts})
    if unrecorded:
        why = f" The last one: {run.state}" + (f", {reason}." if (reason := _reason(run)) else ".")
        last = why if unrecorded[-1] == run.folder.attempt else ""
        blocks.append(
            Note(f"Without a record: {plural(len(unrecorded), 'attempt')} ({_numbers(unrecorded)}).{last}")
        )
    blocks += [Note(text) for text in _changed(run)]
    return Section("attempts", "Attempts", tuple(blocks))


def checkpoints(run: RunReport) -> Section:
    """Checkpoints on disk."""
    if not run.checkpoints:
        return Section("checkpoints", "Checkpoints", (Missing("There is no checkpoint yet."),))
    rows = []
    for one in run.checkpoints:
        m, state = one.manifest, one.problem or "complete"
        if m is None:
            rows.append((one.folder, *["–"] * 5, state))
            continue
        held = number(m.eval_loss, ".4f")
        total = size(sum(file.bytes for file in m.files))
        rows.append((f"{m.step:,}", held, m.strategy, str(m.world_size), str(m.attempt), total, state))
    heads = ("step", "validation loss", "strategy", "ranks", "attempt", "size", "state")
    note = "Checked by names and sizes; `gemfit checkpoints --verify` checks every byte."
    return Section(
        "checkpoints", "Checkpoints", (fold_long(TextTable("Checkpoints", heads, tuple(rows), note)),)
    )


def _validation(run: RunReport) -> Block:
    if not run.history.evaluations:
        return Missing("There was no validation: data.validation_share is 0, or it is too early.")
    rows = tuple(
        (
            f"{e.step:,}",
            f"{e.loss:.4f}",
            f"{e.perplexity:.4g}",
            f"{e.token_accuracy:.2%}",
            f"{e.tokens:,}",
            duration(e.seconds),
        )
        for e in run.history.evaluations
    )
    heads = ("step", "loss", "perplexity", "token accuracy", "tokens", "took")
    return fold_long(TextTable("Validation during training", heads, rows))


def _memory(run: RunReport) -> Block:
    record, facts = run.history.memory[-1], run.facts
    rows = [
        (
            f"rank {index}",
            size(rank.held),
            size(rank.host),
            size(rank.gpu),
            size(rank.gpu_reserved),
        )
        for index, rank in enumerate(record.ranks)
    ]
    if facts.gpu_bytes is not None or facts.host_bytes is not None:
        rows.append(("predicted", "–", size(facts.host_bytes), "–", size(facts.gpu_bytes)))
    note = "Nothing is predicted for this run." if len(rows) == len(record.ranks) else ""
    heads = ("rank", "host, before training", "host, peak", "GPU, in tensors", "GPU, reserved")
    return fold_long(TextTable("Memory", heads, tuple(rows), note))


def _changed(run: RunReport) -> Iterator[str]:
    """Differences between the plan of an attempt and the one before."""
    for before, after in pairwise(run.attempts):
        if changed := plan_changes(before.plan, after.plan):
            yield f"Attempt {after.number}: {changed}."


def _reason(run: RunReport) -> str:
    return run.verdict.reason if run.verdict else ""


def _numbers(found: list[int]) -> str:
    return ", ".join(map(str, found[:NAMED])) + ("…" if len(found) > NAMED else "")
