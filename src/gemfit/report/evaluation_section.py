"""The part of a page that tells of the evaluation: models side by side, by role and depth, and samples."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from gemfit.report.blocks import Block, Chart, Charts, Fold, Missing, Note, Section, Table, Talk
from gemfit.report.format import interval, number, plural, share
from gemfit.report.interval_plots import dots_chart
from gemfit.report.load import Story
from gemfit.report.replies import Budget
from gemfit.report.settings import circumstances
from gemfit.schemas.evaluation import Evaluation, Interval, Message, Score, SubjectScores

OPEN_SAMPLES = 2
"""Samples that are shown unfolded."""
Groups = Callable[[SubjectScores], dict[str, Score]]


def evaluation(story: Story) -> Section:
    """What `gemfit eval` found, or how to find it."""
    found = story.evaluation
    if found is None:
        command = f"gemfit eval {shlex.quote(str(story.run.root))}"
        missing = Missing("The model has not been evaluated on its own, with intervals.", command)
        return Section("evaluation", "Evaluation", (missing,))
    blocks: list[Block] = [Note(_how(found)), _overall(found)]
    if charts := tuple(_charts(found)):
        blocks.append(Charts(charts))
    for title, of in GROUPS:
        if any(len(of(subject)) > 1 for subject in found.subjects):
            blocks.append(_by_group(found, title, of))
    if any(subject.tasks for subject in found.subjects):
        blocks.append(_tasks(found))
    blocks += _samples(found, Budget(str(story.run.evaluation_file)))
    blocks += circumstances("evaluation", found.settings, found.versions)
    return Section("evaluation", "Evaluation", tuple(blocks))


def _roles(subject: SubjectScores) -> dict[str, Score]:
    return subject.roles


def _depths(subject: SubjectScores) -> dict[str, Score]:
    """The last group, `N+`, last."""
    return dict(sorted(subject.depths.items(), key=lambda item: (item[0].endswith("+"), _turn(item[0]))))


def _turn(depth: str) -> int:
    return int(depth.rstrip("+")) if depth.rstrip("+").isdigit() else 0


GROUPS: tuple[tuple[str, Groups], ...] = (("role", _roles), ("turn of the speaker", _depths))


def _how(found: Evaluation) -> str:
    return (
        f"Split `{found.split}` of pack {found.pack[:12]}. In brackets: {found.confidence:.0%} intervals, by "
        f"the bootstrap over conversations ({found.resamples:,} draws, seed {found.seed}). They say how "
        f"far the figure may move with other conversations of this kind, and nothing about other kinds. "
        f"Made {found.created} on {plural(found.world_size, 'rank')}."
    )


def _overall(found: Evaluation) -> Table:
    first = found.subjects[0].name if found.subjects else "the first"
    heads = ("model", "loss (nats a token)", f"less that of {first}", "perplexity", "token accuracy")
    rows = tuple(
        (
            subject.name,
            interval(subject.overall.loss),
            interval(found.differences[subject.name], "+.4f") if subject.name in found.differences else "–",
            interval(subject.overall.perplexity, ".4g"),
            share(subject.overall.token_accuracy),
            f"{subject.overall.tokens:,}",
            f"{subject.overall.conversations:,}",
        )
        for subject in found.subjects
    )
    note = "Differences are of the same conversations: an interval without 0 is a difference that is there."
    return Table("Models", (*heads, "tokens", "conversations"), rows, note)


def _charts(found: Evaluation) -> Iterator[Chart]:
    overall = {subject.name: {"loss": subject.overall.loss} for subject in found.subjects}
    yield dots_chart("eval-loss", "held-out loss", overall, label="nats per token", says=interval)
    for (title, of), name in zip(GROUPS, ("eval-roles", "eval-depths"), strict=True):
        groups: dict[str, dict[str, Interval]] = {}
        for subject in found.subjects:
            for group, score in of(subject).items():
                groups.setdefault(group, {})[subject.name] = score.loss
        if len(groups) > 1:
            yield dots_chart(name, f"held-out loss by {title}", groups, label="nats per token", says=interval)


def _by_group(found: Evaluation, title: str, of: Groups) -> Table:
    names = list(dict.fromkeys(group for subject in found.subjects for group in of(subject)))
    rows = []
    for group in names:
        scores = [of(subject).get(group) for subject in found.subjects]
        counted = next(score for score in scores if score is not None)
        losses = [interval(score.loss) if score else "–" for score in scores]
        right = [share(score.token_accuracy) if score else "–" for score in scores]
        rows.append((group, *losses, *right, f"{counted.tokens:,}", f"{counted.conversations:,}"))
    models = [subject.name for subject in found.subjects]
    heads = (title, *(f"loss, {m}" for m in models), *(f"accuracy, {m}" for m in models))
    return Table(f"By {title}", (*heads, "tokens", "conversations"), tuple(rows))


def _tasks(found: Evaluation) -> Table:
    names = list(dict.fromkeys((t.task, t.metric) for subject in found.subjects for t in subject.tasks))
    rows = []
    for task, metric in names:
        scores = [
            next((t for t in subject.tasks if (t.task, t.metric) == (task, metric)), None)
            for subject in found.subjects
        ]
        cells = [f"{number(t.value)} ± {number(t.stderr, '.2g')}" if t else "–" for t in scores]
        rows.append((task, metric, *cells))
    heads = ("task", "metric", *(subject.name for subject in found.subjects))
    return Table("Tasks of lm-evaluation-harness", heads, tuple(rows), "± is the standard error.")


def _samples(found: Evaluation, budget: Budget) -> Iterator[Block]:
    """Replies of all models to one prompt side by side, beside what the conversation really says."""
    prompts = list(dict.fromkeys(sample.prompt for subject in found.subjects for sample in subject.samples))
    for index, prompt in enumerate(prompts):
        talk = _sample(found, prompt, budget)
        if index < OPEN_SAMPLES:
            yield Fold(f"Sample {index + 1} of {len(prompts)}", (talk,), is_open=True)
        else:
            yield Fold(f"Sample {index + 1} of {len(prompts)}", (talk,), printed=budget.told)


def _sample(found: Evaluation, prompt: tuple[Message, ...], budget: Budget) -> Talk:
    samples = [(s.name, x) for s in found.subjects for x in s.samples if x.prompt == prompt]
    replies = [budget.said("what the conversation says", samples[0][1].reference)]
    replies += [budget.said(name, sample.reply) for name, sample in samples]
    return Talk(tuple(budget.said(m.role, m.content) for m in prompt), tuple(replies))
