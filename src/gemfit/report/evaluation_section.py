"""Evaluation in a report: models side by side, by role and turn, tasks, and samples."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gemfit.report.blocks import Block, Chart, Charts, ChatBlock, Fold, Missing, Note, Section
from gemfit.report.folds import TextBudget, settings_fold
from gemfit.report.interval_plots import interval_chart
from gemfit.report.load import RunReport
from gemfit.schemas.evaluation import Evaluation
from gemfit.summary.evaluation import (
    ACCURACY,
    LOSS,
    EvaluationSummary,
    SampleReplies,
    group_tables,
    score_table,
    summarize_evaluation,
)
from gemfit.summary.format import plural

OPEN_SAMPLES = 2
"""Samples that are shown unfolded."""


def evaluation(run: RunReport) -> Section:
    """What `gemfit eval` found, or the command that runs it."""
    found = run.evaluation
    if found is None:
        command = f"gemfit eval {shlex.quote(str(run.folder.root))}"
        return Section("evaluation", "Evaluation", (Missing("The run was not evaluated.", command),))
    summary = summarize_evaluation(found)
    blocks: list[Block] = [Note(_method(found, summary)), score_table(summary.models)]
    blocks.append(Charts(tuple(_charts(summary))))
    blocks += group_tables(summary, [LOSS, ACCURACY])
    blocks += [summary.tasks] if summary.tasks else []
    blocks += _samples(summary, TextBudget(str(run.folder.evaluation_file)))
    attention = {f"attention of {one.name}": one.attention for one in found.models if one.attention}
    blocks += settings_fold("evaluation", found.settings | attention, found.versions)
    return Section("evaluation", "Evaluation", tuple(blocks))


def _method(found: Evaluation, summary: EvaluationSummary) -> str:
    ranks = plural(found.world_size, "rank")
    return f"{summary.method} Pack {found.pack[:12]}. Made {found.created} on {ranks}."


def _charts(summary: EvaluationSummary) -> Iterator[Chart]:
    overall = {model.name: {"loss": model.score.loss} for model in summary.models}
    yield interval_chart("eval-loss", "validation loss", overall, label="nats per token", form=".4f")
    for kind, groups in summary.groups.items():
        losses = {
            group: {model: score.loss for model, score in scores.items()} for group, scores in groups.items()
        }
        if len(groups) > 1:
            title = f"validation loss by {kind}"
            yield interval_chart(f"eval-{kind}", title, losses, label="nats per token", form=".4f")


def _samples(summary: EvaluationSummary, budget: TextBudget) -> Iterator[Block]:
    """Each prompt with its reference and the replies of all models side by side."""
    for number, sample in enumerate(summary.samples, start=1):
        title = f"Sample {number} of {len(summary.samples)}"
        is_open = number <= OPEN_SAMPLES
        printed = "" if is_open else budget.print_note
        yield Fold(title, (_sample(sample, budget),), printed, is_open=is_open)


def _sample(sample: SampleReplies, budget: TextBudget) -> ChatBlock:
    replies = [("reference", sample.reference), *sample.replies]
    return ChatBlock(
        tuple(budget.turn(message.role, message.content) for message in sample.prompt),
        tuple(budget.turn(speaker, text) for speaker, text in replies),
    )
