"""``audit.md``: an audit as Markdown: findings, scores, then every prompt and reply."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.schemas.audit import Audit
from gemfit.summary.audit import AuditSummary, PromptReplies, SuiteSummary, suite_table, summarize_audit
from gemfit.summary.markdown import bullets, cell, code, render, section, verbatim


def as_markdown(audit: Audit) -> str:
    """The whole report; prompts and replies are in fenced blocks."""
    summary = summarize_audit(audit)
    system = str(audit.settings.get("system_prompt") or "")
    return (
        section(
            "Audit",
            f"{summary.method} Made {audit.created}.",
            section("System prompt of prompts without one", verbatim(system), level=2) if system else "",
            section("Findings", *_findings(summary)),
            section("Scores", *(_scores(summary, suite) for suite in summary.suites)),
            section("Prompts and replies", *(_prompts(suite) for suite in summary.suites)),
            level=1,
        )
        + "\n"
    )


def _findings(summary: AuditSummary) -> Iterator[str]:
    for model in summary.models:
        findings = [
            f"**{one.finding.severity}** {one.text()}" for one in summary.findings if one.model == model
        ]
        yield section(model, bullets(findings) if findings else "None.", level=3)


def _scores(summary: AuditSummary, suite: SuiteSummary) -> str:
    about = suite.about
    return section(
        suite.name,
        f"{about.purpose} {about.source} {about.limits}" if about else "",
        render(suite_table(summary, suite)),
        bullets(f"*{names}*: {sentence}" for names, sentence in suite.meanings),
        level=3,
    )


def _prompts(suite: SuiteSummary) -> str:
    return section(f"{suite.name}: every reply", *map(_prompt, suite.prompts), level=3)


def _prompt(prompt: PromptReplies) -> str:
    parts = [part for one in prompt.messages for part in (f"{one.role}:", verbatim(one.content))]
    for model, reply in prompt.replies:
        scores = [f"{name} {value:g}" for name, value in reply.scores.items()]
        parts.append(f"**{cell(model)}** ({', '.join([*scores, *filter(None, [cell(reply.label)])])}):")
        parts.append(verbatim(reply.reply or "(an empty reply)"))
    variant = f" · {cell(prompt.variant)}" if prompt.variant else ""
    return section(code(prompt.prompt) + variant, *parts, level=4)
