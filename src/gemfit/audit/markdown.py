"""``audit.md``: what an audit found, for a person: findings, figures, then every prompt and reply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gemfit.schemas.audit import Audit, AuditedReply, AuditedSubject, AuditScore


def as_markdown(audit: Audit) -> str:
    """The whole report. Prompts and replies are quoted, so nothing in them is taken for Markdown."""
    return "\n".join([*_head(audit), *_findings(audit), *_figures(audit), *_replies(audit)]) + "\n"


def shown(score: AuditScore, value: float) -> str:
    """A value of ``score`` for a person: a share in percent, a difference with its sign."""
    if score.is_share:
        return f"{value:.0%}"
    value = round(value, 2) + 0.0  # no -0.00
    return f"{value:+.2f}" if score.better == "zero" or "excess" in score.name else f"{value:.2f}"


def shown_interval(score: AuditScore) -> str:
    """The value and where it lies."""
    value = score.value
    text = f"{shown(score, value.value)} ({shown(score, value.low)} to {shown(score, value.high)})"
    return text if score.effect is None else f"{text}, {score.effect:+.1f} SD"


def _head(audit: Audit) -> Iterator[str]:
    yield "# Audit"
    yield ""
    yield (
        f"{_count(sum(len(subject.replies) for subject in audit.subjects), 'reply', 'replies')} of "
        f"{', '.join(subject.name for subject in audit.subjects)}, {audit.created}. "
        f"Intervals: {audit.confidence:.0%}, of shares by Wilson's and Newcombe's formulas, else by a "
        f"bootstrap of {audit.resamples:,} resamples over prompts; seed {audit.seed}."
    )
    if system := audit.settings.get("system_prompt"):
        yield ""
        yield "System prompt of the prompts that bring none of their own:"
        yield from _quoted(str(system))
    yield ""
    yield (
        "Scores are made by word lists, counts and a sentiment lexicon, in English. They show where to look, "
        "and are no proof of safety. Every prompt and reply stands below."
    )


def _findings(audit: Audit) -> Iterator[str]:
    yield ""
    yield "## Findings"
    for subject in audit.subjects:
        yield ""
        yield f"### {subject.name}"
        yield ""
        if not subject.findings:
            yield "None."
        for finding in subject.findings:
            where = f" Prompts: {', '.join(map(_code, finding.prompts))}." if finding.prompts else ""
            yield f"- **{finding.severity}** {finding.probe}: {finding.text}.{where}"


def _figures(audit: Audit) -> Iterator[str]:
    yield ""
    yield "## Figures"
    for probe in audit.suites:
        about = audit.about[probe]
        yield ""
        yield f"### {probe}"
        yield ""
        yield f"{about.purpose} {about.source} {about.limits}"
        yield ""
        yield from _table(probe, audit.subjects)
        yield ""
        said = {score.says: _kind(score) for subject in audit.subjects for score in _of(probe, subject)}
        yield from (f"- *{name}*: {says}" for says, name in said.items())


def _table(probe: str, subjects: Sequence[AuditedSubject]) -> Iterator[str]:
    yield "| figure | better | " + " | ".join(_cell(subject.name) for subject in subjects) + " |"
    yield "|---|---|" + "---|" * len(subjects)
    by_name = [{score.name: score for score in _of(probe, subject)} for subject in subjects]
    for name, score in {name: score for scores in by_name for name, score in scores.items()}.items():
        cells = [shown_interval(scores[name]) if name in scores else "" for scores in by_name]
        yield f"| {_cell(name)} | {score.better} | " + " | ".join(cells) + " |"


def _replies(audit: Audit) -> Iterator[str]:
    yield ""
    yield "## Prompts and replies"
    for probe in audit.suites:
        yield ""
        yield f"### {probe}: every reply"
        sides = [[reply for reply in subject.replies if reply.probe == probe] for subject in audit.subjects]
        for replies in zip(*sides, strict=True):
            yield from _beside(replies, audit.subjects)


def _beside(replies: Sequence[AuditedReply], subjects: Sequence[AuditedSubject]) -> Iterator[str]:
    one = replies[0]
    yield ""
    yield f"#### {_code(one.prompt)}{' · ' + _cell(one.variant) if one.variant else ''}"
    for message in one.messages:
        yield ""
        yield f"{message.role}:"
        yield from _quoted(message.content)
    for subject, reply in zip(subjects, replies, strict=True):
        scores = ", ".join(f"{name} {value:g}" for name, value in reply.scores.items())
        yield ""
        yield f"**{_cell(subject.name)}** ({scores}{', ' + _cell(reply.label) if reply.label else ''}):"
        yield from _quoted(reply.reply or "(an empty reply)")


def _quoted(text: str) -> Iterator[str]:
    """A block whose fence is longer than any that the text holds."""
    fence = "~~~"
    while fence in text:
        fence += "~"
    yield ""
    yield fence
    yield text
    yield fence


def _kind(score: AuditScore) -> str:
    return score.name.partition(",")[0] if score.better == "zero" else score.name


def _of(probe: str, subject: AuditedSubject) -> list[AuditScore]:
    return [score for score in subject.scores if score.probe == probe]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
