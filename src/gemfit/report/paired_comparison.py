"""Evaluations of several runs: side by side where they share conversations, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from gemfit.evaluate.bootstrap import bootstrap_interval
from gemfit.report.blocks import Block, Charts, Note
from gemfit.report.interval_plots import interval_chart
from gemfit.report.load import RunReport
from gemfit.schemas.evaluation import ConversationLosses, Evaluation, Interval
from gemfit.summary.evaluation import ModelScore, score_table
from gemfit.summary.format import interval
from gemfit.summary.text_table import TextTable


def shared_evaluations(names: Sequence[str], runs: Sequence[RunReport]) -> list[Block]:
    """One table and chart for each validation split; runs on the same conversations are in the same one."""
    splits: dict[tuple[str, str], list[ModelScore]] = {}
    for name, run in zip(names, runs, strict=True):
        if (found := run.evaluation) is not None:
            scores = [ModelScore(f"{name}: {s.name}", s.overall) for s in found.models]
            splits.setdefault((found.pack, found.split), []).extend(scores)
    blocks: list[Block] = []
    for index, ((pack, split), models) in enumerate(splits.items()):
        table = score_table(models)
        title = f"Evaluation on {split} of pack {pack[:12]}"
        blocks.append(TextTable(title, table.heads, table.rows, "Losses in nats per token."))
        losses = {model.name: {"loss": model.score.loss} for model in models}
        name, title = f"compare-eval-{index}", f"loss on {split}"
        blocks.append(Charts((interval_chart(name, title, losses, label="nats per token", form=".4f"),)))
    if (paired := _paired(names, runs)) is not None:
        blocks.append(paired)
    if len(splits) > 1:
        blocks.append(Note("The runs were evaluated on different conversations: compare within a table."))
    without = [name for name, run in zip(names, runs, strict=True) if run.evaluation is None]
    if without:
        blocks.append(Note(f"Not evaluated: {', '.join(without)}. Run `gemfit eval RUN`."))
    return blocks


def _paired(names: Sequence[str], runs: Sequence[RunReport]) -> TextTable | None:
    """The newest model of each run less that of the first, over the conversations of both."""
    rows = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        if (found := _difference(runs[0], run)) is not None:
            rows.append((name, interval(found[0], "+.4f"), f"{found[1]:,}"))
    if not rows:
        return None
    note = (
        "Each conversation is compared with itself: an interval without 0 is a real difference. "
        "Of each run, the model that was evaluated last. Losses in nats per token."
    )
    heads = ("run", f"loss less that of {names[0]}", "conversations")
    return TextTable("Paired differences", heads, tuple(rows), note)


def _difference(one: RunReport, other: RunReport) -> tuple[Interval, int] | None:
    """``None`` where the two were not evaluated on the same conversations."""
    a, b = one.evaluation, other.evaluation
    if a is None or b is None or one.losses is None or other.losses is None:
        return None
    if (a.pack, a.split) != (b.pack, b.split):
        return None
    before, after = _by_document(a, one.losses), _by_document(b, other.losses)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return None
    found = bootstrap_interval(
        [after[document][0] - before[document][0] for document in shared],
        [before[document][1] for document in shared],
        resamples=a.resamples,
        confidence=a.confidence,
        seed=a.seed,
    )
    return found, len(shared)


def _by_document(found: Evaluation, losses: ConversationLosses) -> dict[int, tuple[float, int]]:
    """Sum of the losses and number of tokens of each conversation, of the last model that has them."""
    name = [model.name for model in found.models if model.name in losses.losses][-1]
    return {
        document: (loss, tokens)
        for document, loss, tokens in zip(losses.documents, losses.losses[name], losses.tokens, strict=True)
    }
