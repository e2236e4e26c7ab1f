"""What an evaluation found, for a person to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.text import Text

from gemfit.schemas.evaluation import Evaluation, Interval, Score, SubjectScores
from gemfit_launch.output.tables import console, table

SAMPLES = 3
"""Shown unless all are asked for."""
SHORT = 280
"""Characters of a text that is not shown in full."""


def show_evaluation(evaluation: Evaluation, *, whole: bool = False) -> None:
    """Subjects, roles, depths, tasks and samples; ``whole`` shows every sample in full."""
    out, subjects = console(), evaluation.subjects
    tables = [
        _overall(evaluation),
        _groups("role", subjects, lambda subject: subject.roles),
        _groups("turn", subjects, lambda subject: subject.depths),
    ]
    tables += [_tasks(subjects)] if any(subject.tasks for subject in subjects) else []
    for made in tables:
        out.print(made)
        out.print()
    shown = len(subjects[0].samples) if whole else SAMPLES
    for number in range(min(shown, *(len(subject.samples) for subject in subjects))):
        out.print(_sample(subjects, number, whole))
    overall = subjects[0].overall
    out.print(
        f"{overall.tokens:,} trained tokens of {overall.conversations:,} conversations ({evaluation.split}); "
        f"± is half of the {evaluation.confidence:.0%} interval over conversations; losses in nats a token"
    )


def _overall(evaluation: Evaluation) -> object:
    names = ["model", "loss", "perplexity", "token accuracy", f"loss less {evaluation.subjects[0].name}"]
    rows = [
        (
            subject.name,
            _with_half(subject.overall.loss, 4),
            _with_half(subject.overall.perplexity, 2),
            _with_half(subject.overall.token_accuracy, 2, scale=100, unit="%"),
            _signed(evaluation.differences.get(subject.name)),
        )
        for subject in evaluation.subjects
    ]
    return table(names, rows, numbers=names[1:])


def _groups(
    what: str, subjects: Iterable[SubjectScores], of: Callable[[SubjectScores], dict[str, Score]]
) -> object:
    """Losses of each group, the subjects side by side."""
    subjects = list(subjects)
    groups = list(dict.fromkeys(group for subject in subjects for group in of(subject)))
    names = [what, "tokens", *(subject.name for subject in subjects)]
    rows = [
        (
            group,
            f"{max(of(s)[group].tokens for s in subjects if group in of(s)):,}",
            *(_loss(of(s).get(group)) for s in subjects),
        )
        for group in groups
    ]
    return table(names, rows, numbers=names[1:])


def _loss(score: Score | None) -> str:
    """A single conversation has no interval."""
    if score is None:
        return "-"
    return _with_half(score.loss, 3) if score.conversations > 1 else f"{score.loss.value:.3f}        "


def _tasks(subjects: Iterable[SubjectScores]) -> object:
    subjects = list(subjects)
    scores = {(s.name, t.task, t.metric): t for s in subjects for t in s.tasks}
    keys = list(dict.fromkeys((task, metric) for _, task, metric in scores))
    names = ["task", "metric", *(subject.name for subject in subjects)]
    rows = [
        (task, metric, *(_task(scores.get((s.name, task, metric))) for s in subjects))
        for task, metric in keys
    ]
    return table(names, rows, numbers=names[2:])


def _task(score: object) -> str:
    value, stderr = getattr(score, "value", None), getattr(score, "stderr", None)
    if value is None:
        return "-"
    return f"{value:.4f}" if stderr is None else f"{value:.4f} ± {stderr:.4f}"


def _sample(subjects: tuple[SubjectScores, ...], number: int, whole: bool) -> Text:
    """The last message, what the conversation says next, and what each model says."""
    first = subjects[0].samples[number]
    said = [
        (f"{message.role}", message.content) for message in (first.prompt if whole else first.prompt[-1:])
    ]
    said += [("data", first.reference)]
    said += [(subject.name, subject.samples[number].reply) for subject in subjects]
    text = Text(f"sample {number + 1} of {len(subjects[0].samples)}\n", style="bold")
    for who, words in said:
        text.append(f"{who}: ", "dim not bold")
        text.append(f"{_short(words, whole)}\n", "not bold")
    return text


def _short(words: str, whole: bool) -> str:
    # A model may say what a terminal would take for a command.
    words = "".join(char if char.isprintable() or char in "\n\t" else "�" for char in words)
    if whole:
        return words or "(nothing)"
    line = " ".join(words.split())
    return (line if len(line) <= SHORT else line[: SHORT - 1] + "…") or "(nothing)"


def _with_half(interval: Interval, digits: int, *, scale: float = 1, unit: str = "") -> str:
    half = (interval.high - interval.low) / 2
    return f"{interval.value * scale:.{digits}f}{unit} ± {half * scale:.{digits}f}"


def _signed(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
