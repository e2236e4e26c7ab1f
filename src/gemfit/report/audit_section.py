"""The part of a page that tells of the audit: findings first, then scores, then every prompt and reply."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence

from gemfit.evaluate.bootstrap import interval as bootstrap
from gemfit.report.blocks import Block, Chart, Charts, Fold, Heading, Missing, Note, Section, Table, Talk
from gemfit.report.format import interval, plural, share
from gemfit.report.interval_plots import dots_chart
from gemfit.report.load import Story
from gemfit.report.replies import Budget
from gemfit.report.settings import circumstances
from gemfit.report.truncate import cut
from gemfit.schemas.audit import Audit, AuditedReply, AuditedSubject, AuditScore
from gemfit.schemas.evaluation import Interval

VARIANT_CHARTS = 3
"""Figures of a suite that are drawn variant by variant."""
VARIANTS = 30
"""Variants from which on a chart is no help."""
PROMPTS = 300
"""Prompts of a suite in the page."""


def audit(story: Story) -> Section:
    """What `gemfit audit` found, or how to find it."""
    found = story.audit
    if found is None:
        command = f"gemfit audit {shlex.quote(str(story.run.root))}"
        missing = Missing("The model has not been audited: nothing is known about what it says.", command)
        return Section("audit", "Audit", (missing,))
    budget = Budget(str(story.run.audit_file))
    blocks: list[Block] = [Note(_how(found)), *_findings(found)]
    for probe in _probes(found):
        blocks.append(Heading(_title(probe)))
        if (about := found.about.get(probe)) is not None:
            blocks.append(Note(f"{about.purpose} Texts: {about.source} Limits: {about.limits}"))
        blocks += _scores(found, probe)
        if charts := tuple(_charts(found, probe)):
            blocks.append(Charts(charts))
        blocks.append(_replies(found, probe, budget))
    blocks += [Note(budget.limits), *circumstances("audit", found.settings, found.versions)]
    return Section("audit", "Audit", tuple(blocks))


def _how(found: Audit) -> str:
    return (
        f"{plural(len(found.suites), 'suite')} of prompts, given to "
        f"{', '.join(subject.name for subject in found.subjects)}. In brackets: {found.confidence:.0%} "
        f"intervals; of yes-or-no shares by Wilson's formula, else by the bootstrap over prompts "
        f"({found.resamples:,} draws, seed {found.seed}). "
        f"A suite without a finding proves nothing: it asked these prompts and no others. "
        f"Made {found.created}."
    )


def _findings(found: Audit) -> Iterator[Block]:
    """The severe ones first."""
    yield Heading("Findings")
    listed = [(finding, subject) for subject in found.subjects for finding in subject.findings]
    if not listed:
        yield Note("None: no score crossed its threshold.", "good")
    for finding, subject in sorted(listed, key=lambda item: item[0].severity != "fail"):
        prompts = f" (prompts {', '.join(finding.prompts)})" if finding.prompts else ""
        text = f"{finding.severity}: {_title(finding.probe)}, {subject.name}: {finding.text}{prompts}"
        yield Note(text, "fail" if finding.severity == "fail" else "warn")


def _probes(found: Audit) -> list[str]:
    scored = (score.probe for subject in found.subjects for score in subject.scores)
    asked = (reply.probe for subject in found.subjects for reply in subject.replies)
    return list(dict.fromkeys([*found.suites, *scored, *asked]))


def _scores(found: Audit, probe: str) -> Iterator[Block]:
    """A table, and once each what its scores can and cannot say."""
    named: dict[str, dict[str, AuditScore]] = defaultdict(dict)
    for subject in found.subjects:
        for score in subject.scores:
            if score.probe == probe:
                named[score.name][subject.name] = score
    if not named:
        yield Missing("This suite has no score.")
        return
    models = [subject.name for subject in found.subjects]
    rows, says = [], defaultdict[str, list[str]](list)
    for name, by_model in named.items():
        one = next(iter(by_model.values()))
        cells = [_value(by_model[m]) if m in by_model else "–" for m in models]
        rows.append((name, *cells, one.better, f"{one.replies:,}"))
        says[one.says].append(name)
    heads = ("score", *models, "better", "replies")
    yield cut(Table(f"Scores: {_title(probe)}", heads, tuple(rows)))
    meant = tuple((_some(names), sentence) for sentence, names in says.items())
    yield Table(f"What they say, and what they cannot: {_title(probe)}", ("score", "says"), meant)


def _some(names: list[str]) -> str:
    return names[0] + (f", and {len(names) - 1} more" if len(names) > 1 else "")


def _value(score: AuditScore) -> str:
    effect = f", {score.effect:+.2f} SD" if score.effect is not None else ""
    return (share(score.value) if score.is_share else interval(score.value, ".3g")) + effect


def _charts(found: Audit, probe: str) -> Iterator[Chart]:
    """Shares; differences between groups, measure by measure; where there is neither, means by variant."""
    groups: dict[str, dict[str, Interval]] = defaultdict(dict)
    apart: dict[str, dict[str, dict[str, Interval]]] = defaultdict(lambda: defaultdict(dict))
    for subject in found.subjects:
        for score in subject.scores:
            measure, comma, group = score.name.partition(", ")
            if score.probe == probe and score.better == "zero" and comma:
                apart[measure][group][subject.name] = score.value
            elif score.probe == probe and score.better != "zero" and score.is_share:
                groups[score.name][subject.name] = score.value
    anchor, title = f"audit-{_anchor(probe)}", _title(probe)
    if groups:
        yield dots_chart(anchor, f"{title}: scores", groups, label="", says=share, share=True)
    for measure, differences in apart.items():
        if not any(one.low or one.high for by_model in differences.values() for one in by_model.values()):
            continue  # a line of zeros, which the table has
        yield dots_chart(
            f"{anchor}-{_anchor(measure)}",
            f"{title}: {measure}",
            differences,
            label="less that of the other groups",
            says=_figure,
            zero=True,
        )
    if not apart and not groups:
        yield from _variant_charts(found, probe)


def _figure(value: Interval) -> str:
    return interval(value, ".3g")


def _variant_charts(found: Audit, probe: str) -> Iterator[Chart]:
    """Mean of each figure for each exchanged attribute, over the prompts that have it."""
    replies = {s.name: [r for r in s.replies if r.probe == probe] for s in found.subjects}
    every = [reply for own in replies.values() for reply in own]
    variants = list(dict.fromkeys(reply.variant for reply in every if reply.variant))
    numbered = all(variant.isdigit() for variant in variants)  # repetitions: nothing was exchanged
    if not 2 <= len(variants) <= VARIANTS or numbered:
        return
    for name in list(dict.fromkeys(score for reply in every for score in reply.scores))[:VARIANT_CHARTS]:
        groups: dict[str, dict[str, Interval]] = {}
        for variant in variants:
            means = {m: _mean(found, own, variant, name) for m, own in replies.items()}
            groups[variant] = {model: mean for model, mean in means.items() if mean is not None}
        yield dots_chart(
            f"audit-{_anchor(probe)}-{_anchor(name)}",
            f"{_title(probe)}: {name} by variant",
            groups,
            label=f"mean {name}",
            says=_figure,
        )


def _mean(found: Audit, replies: Sequence[AuditedReply], variant: str, name: str) -> Interval | None:
    values = [reply.scores[name] for reply in replies if reply.variant == variant and name in reply.scores]
    if not values:
        return None
    return bootstrap(values, resamples=found.resamples, confidence=found.confidence, seed=found.seed)


def _replies(found: Audit, probe: str, budget: Budget) -> Block:
    """Every prompt, with the replies of all models side by side."""
    asked: dict[tuple[str, str], dict[str, AuditedReply]] = defaultdict(dict)
    for subject in found.subjects:
        for reply in subject.replies:
            if reply.probe == probe:
                asked[reply.prompt, reply.variant][subject.name] = reply
    blocks: list[Block] = []
    for (prompt, variant), by_model in list(asked.items())[:PROMPTS]:
        blocks.append(Heading(f"Prompt {prompt}" + (f", {variant}" if variant else "")))
        blocks.append(_talk(by_model, found.subjects, budget))
    if len(asked) > PROMPTS:
        blocks.append(Note(f"{len(asked) - PROMPTS:,} more prompts are in {budget.file}."))
    return Fold(f"{_title(probe)}: {plural(len(asked), 'prompt')} and all replies", blocks, budget.told)


def _talk(by_model: dict[str, AuditedReply], subjects: Sequence[AuditedSubject], budget: Budget) -> Talk:
    first = next(iter(by_model.values()))
    messages = tuple(budget.said(message.role, message.content) for message in first.messages)
    replies = []
    for subject in subjects:
        if (one := by_model.get(subject.name)) is not None:
            said = [one.label] if one.label else []
            scores = ", ".join(said + [f"{name} {value:.3g}" for name, value in one.scores.items()])
            replies.append(budget.said(subject.name, one.reply, scores))
    return Talk(messages, tuple(replies))


def _title(probe: str) -> str:
    return probe.replace("_", " ").replace("-", " ")


def _anchor(text: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
