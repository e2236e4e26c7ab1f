"""Audit in a report: findings first, then scores, then every prompt and reply."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator

from gemfit.report.blocks import Block, Chart, Charts, ChatBlock, Fold, Heading, Missing, Note, Section
from gemfit.report.folds import TextBudget, fold_long, settings_fold
from gemfit.report.interval_plots import interval_chart
from gemfit.report.load import RunReport
from gemfit.schemas.evaluation import Interval
from gemfit.summary.audit import (
    DIFFERENCE,
    AuditSummary,
    PromptReplies,
    SuiteSummary,
    suite_table,
    summarize_audit,
)
from gemfit.summary.format import plural
from gemfit.summary.text_table import TextTable

PROMPTS = 300
"""Most prompts of a suite in the page."""
Groups = dict[str, dict[str, Interval]]
"""Interval of each model, by group."""


def audit(run: RunReport) -> Section:
    """What `gemfit audit` found, or the command that runs it."""
    found = run.audit
    if found is None:
        command = f"gemfit audit {shlex.quote(str(run.folder.root))}"
        return Section("audit", "Audit", (Missing("The run was not audited.", command),))
    summary, budget = summarize_audit(found), TextBudget(str(run.folder.audit_file))
    blocks: list[Block] = [Note(f"{summary.method} Made {found.created}."), *_findings(summary)]
    for suite in summary.suites:
        blocks += _suite(summary, suite, budget)
    blocks += [Note(budget.limits), *settings_fold("audit", found.settings, found.versions)]
    return Section("audit", "Audit", tuple(blocks))


def _findings(summary: AuditSummary) -> Iterator[Block]:
    yield Heading("Findings")
    if not summary.findings:
        yield Note("None: no score crossed its threshold.", "good")
    for one in summary.findings:
        yield Note(f"{one.finding.severity}: {one.model}: {one.text()}", one.finding.severity)


def _suite(summary: AuditSummary, suite: SuiteSummary, budget: TextBudget) -> Iterator[Block]:
    yield Heading(suite.name)
    if (about := suite.about) is not None:
        yield Note(f"{about.purpose} Texts: {about.source} Limits: {about.limits}")
    if suite.scores:
        yield fold_long(suite_table(summary, suite))
        yield TextTable(f"Meaning of the scores: {suite.name}", ("score", "meaning"), suite.meanings)
    else:
        yield Missing("This suite has no score.")
    if charts := tuple(_charts(suite)):
        yield Charts(charts)
    yield _replies(suite, budget)


def _charts(suite: SuiteSummary) -> Iterator[Chart]:
    """Shares, and differences between groups."""
    shares: Groups = {}
    differences: dict[str, Groups] = defaultdict(dict)
    for name, by_model in suite.scores.items():
        one = next(iter(by_model.values()))
        values = {model: score.value for model, score in by_model.items()}
        measure, _, group = name.partition(", ")
        if one.better == DIFFERENCE and group:
            differences[measure][group] = values
        elif one.is_share:
            shares[name] = values
    anchor = f"audit-{_anchor(suite.name)}"
    if shares:
        yield interval_chart(anchor, f"{suite.name}: scores", shares, form=".1%", share=True)
    for measure, groups in differences.items():
        if any(one.low or one.high for values in groups.values() for one in values.values()):
            name, title = f"{anchor}-{_anchor(measure)}", f"{suite.name}: {measure}"
            label = "less that of the other groups"
            yield interval_chart(name, title, groups, label=label, form=".3g", zero=True)


def _replies(suite: SuiteSummary, budget: TextBudget) -> Block:
    """Every prompt, with the replies of all models side by side."""
    blocks: list[Block] = []
    for prompt in suite.prompts[:PROMPTS]:
        blocks.append(Heading(f"Prompt {prompt.prompt}" + (f", {prompt.variant}" if prompt.variant else "")))
        blocks.append(_chat(prompt, budget))
    if len(suite.prompts) > PROMPTS:
        blocks.append(Note(f"{len(suite.prompts) - PROMPTS:,} more prompts are in {budget.file}."))
    title = f"{suite.name}: {plural(len(suite.prompts), 'prompt')} and all replies"
    return Fold(title, blocks, budget.print_note)


def _chat(prompt: PromptReplies, budget: TextBudget) -> ChatBlock:
    messages = tuple(budget.turn(message.role, message.content) for message in prompt.messages)
    replies = []
    for model, reply in prompt.replies:
        scores = [f"{name} {value:.3g}" for name, value in reply.scores.items()]
        notes = [reply.label] if reply.label else []
        replies.append(budget.turn(model, reply.reply, ", ".join(notes + scores)))
    return ChatBlock(messages, tuple(replies))


def _anchor(text: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
