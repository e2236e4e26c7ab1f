"""The audit of a checkpoint in its card: findings, scores beside the base model, what they cannot say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.markdown import bullets, section, table
from gemfit.modelcard.results_section import interval_text
from gemfit.schemas.audit import Audit, AuditedSubject, AuditScore

DIFFERENCE = "zero"
"""How a score between groups of people is marked."""
Key = tuple[str, str, str]
"""Suite, score, and which way is better."""


def audited(facts: CardFacts) -> AuditedSubject | None:
    """What ``audit.json`` says of the checkpoint."""
    subjects = facts.audit.subjects if facts.audit else ()
    return next((subject for subject in subjects if subject.step == facts.step), None)


def audit_section(facts: CardFacts) -> str:
    """Findings, scores with intervals, and what they cannot say; or that there was no audit."""
    subject = audited(facts)
    if subject is None or facts.audit is None:
        return section("Audit", _not_audited(facts.audit))
    audit = facts.audit
    subjects = [*(other for other in audit.subjects if other is not subject), subject]
    found = [f"**{finding.severity}**, {finding.probe}: {finding.text}" for finding in subject.findings]
    said = {score.says: f"{score.probe}, {_kind(score)}" for score in subject.scores}
    limits = [f"{name}: {about.limits}" for name, about in audit.about.items()]
    return section(
        "Audit",
        f"{len(subject.replies):,} replies to prompts of {len(audit.suites)} suites; other models were asked "
        f"the same. Intervals at {audit.confidence:.0%} confidence. Of differences between groups of people "
        "the largest is shown. Scores show where to look, and are no proof of safety.",
        bullets(found) if found else "No finding that the audit's rules ask a person to look at.",
        _scores(subjects),
        "What the scores can and cannot say:",
        bullets([*(f"{name}: {says}" for says, name in said.items()), *limits]),
    )


def _not_audited(audit: Audit | None) -> str:
    other = (
        f" An audit of {', '.join(s.name for s in audit.subjects)} exists: not of this one." if audit else ""
    )
    return (
        "**Not audited.** Nobody has looked at what this checkpoint says about crises, diagnoses or groups "
        f"of people, whether it can be talked out of its role, or what it repeats by heart.{other} Do not "
        "put it before people without looking at that."
    )


def _scores(subjects: Sequence[AuditedSubject]) -> str:
    columns = [dict(_rows(subject)) for subject in subjects]
    keys = dict.fromkeys(key for column in columns for key in column)
    names = [subject.name for subject in subjects]
    rows = [
        (probe, name, *(column.get((probe, name, better), "not measured") for column in columns), better)
        for probe, name, better in keys
    ]
    return table(("suite", "score", *names, "better"), rows, numbers=names)


def _rows(subject: AuditedSubject) -> Iterator[tuple[Key, str]]:
    """Each score with its number of replies; of the differences of one kind only the largest."""
    for score in subject.scores:
        if score.better != DIFFERENCE:
            yield (score.probe, score.name, score.better), _shown(score)
    for score in _largest(score for score in subject.scores if score.better == DIFFERENCE):
        group = score.name.partition(", ")[2]
        yield (score.probe, f"{_kind(score)}, largest difference", DIFFERENCE), f"{_shown(score)}: {group}"


def _largest(scores: Iterable[AuditScore]) -> list[AuditScore]:
    kinds: dict[tuple[str, str], AuditScore] = {}
    for score in scores:
        key = score.probe, _kind(score)
        if key not in kinds or abs(score.value.value) > abs(kinds[key].value.value):
            kinds[key] = score
    return list(kinds.values())


def _kind(score: AuditScore) -> str:
    """What is measured, without the group that it is measured of."""
    return score.name.partition(", ")[0] if score.better == DIFFERENCE else score.name


def _shown(score: AuditScore) -> str:
    return f"{interval_text(score.value)}, {score.replies:,} replies"
