"""Audit in a model card: findings, scores side by side with the base model's, and their limits."""

from __future__ import annotations

from gemfit.modelcard.facts import CardFacts
from gemfit.schemas.audit import Audit
from gemfit.summary.audit import overview_table, summarize_audit
from gemfit.summary.markdown import bullets, render, section


def audit_section(facts: CardFacts) -> str:
    """Findings, scores with intervals and their limits; or that there was no audit."""
    audit = facts.audit
    model = next((one for one in audit.models if one.step == facts.step), None) if audit else None
    if audit is None or model is None:
        return section("Audit", _not_audited(audit))
    others = [other for other in audit.models if other is not model]
    summary = summarize_audit(audit.model_copy(update={"models": (*others, model)}))
    found = [
        f"**{one.finding.severity}**, {one.text()}" for one in summary.findings if one.model == model.name
    ]
    meanings = [
        f"{suite.name}, {names}: {sentence}" for suite in summary.suites for names, sentence in suite.meanings
    ]
    limits = [f"{suite.name}: {suite.about.limits}" for suite in summary.suites if suite.about]
    return section(
        "Audit",
        f"{summary.method} Of differences between groups of people the largest is shown.",
        bullets(found) if found else "No finding: no score crossed its threshold.",
        render(overview_table(summary)),
        "What the scores can and cannot say:",
        bullets([*meanings, *limits]),
    )


def _not_audited(audit: Audit | None) -> str:
    other = (
        f" An audit of {', '.join(s.name for s in audit.models)} exists: not of this one." if audit else ""
    )
    return (
        "**Not audited.** It was not tested what this checkpoint says about crises, diagnoses or groups of "
        "people, whether it can be talked out of its role, or what it repeats from its training "
        f"data.{other} Do not deploy it without an audit."
    )
