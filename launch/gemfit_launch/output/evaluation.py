"""An evaluation on the terminal: scores of the models side by side, and samples."""

from __future__ import annotations

from rich.text import Text

from gemfit.schemas.evaluation import Evaluation
from gemfit.summary.evaluation import (
    LOSS,
    SampleReplies,
    group_tables,
    score_table,
    summarize_evaluation,
)
from gemfit.summary.format import plus_minus
from gemfit_launch.output.tables import console, table

SAMPLES = 3
"""Shown unless all are requested."""
SHORT = 280
"""Characters of a text that is not shown in full."""


def show_evaluation(evaluation: Evaluation, *, whole: bool = False) -> None:
    """Models, roles, turns, tasks and samples; ``whole`` shows every sample in full."""
    out, summary = console(), summarize_evaluation(evaluation)
    tables = [score_table(summary.models, plus_minus), *group_tables(summary, [LOSS], plus_minus)]
    for made in [*tables, summary.tasks] if summary.tasks else tables:
        out.print(table(made.heads, made.rows, numbers=made.numeric_heads))
        out.print()
    shown = summary.samples if whole else summary.samples[:SAMPLES]
    for number, sample in enumerate(shown, start=1):
        out.print(_sample(sample, f"sample {number} of {len(summary.samples)}", whole))
    out.print(f"{summary.method} ± is half the width of an interval.")


def _sample(sample: SampleReplies, title: str, whole: bool) -> Text:
    """The last message, how the conversation continues, and the reply of each model."""
    turns = [(message.role, message.content) for message in sample.prompt[0 if whole else -1 :]]
    turns += [("reference", sample.reference), *sample.replies]
    text = Text(f"{title}\n", style="bold")
    for speaker, content in turns:
        text.append(f"{speaker}: ", "dim not bold")
        text.append(f"{_printable(content, whole)}\n", "not bold")
    return text


def _printable(content: str, whole: bool) -> str:
    # A reply may hold escape sequences, which a terminal would execute.
    content = "".join(char if char.isprintable() or char in "\n\t" else "�" for char in content)
    if whole:
        return content or "(nothing)"
    line = " ".join(content.split())
    return (line if len(line) <= SHORT else line[: SHORT - 1] + "…") or "(nothing)"
