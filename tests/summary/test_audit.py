"""Findings and scores of an audit, and prompts with their replies."""

from __future__ import annotations

from gemfit.summary.audit import overview_table, suite_table, summarize_audit
from report.conftest import audit


def test_severe_findings_come_first_and_name_their_prompts() -> None:
    findings = summarize_audit(audit()).findings
    assert [(one.model, one.finding.severity) for one in findings] == [
        ("step 30", "fail"),
        ("step 30", "warn"),
    ]
    assert findings[0].text().endswith("(prompts 1, 2)")
    assert findings[0].text(1).endswith("(prompts 1 and 1 more)")


def test_the_overview_has_the_largest_difference_of_each_kind_and_a_suite_has_all() -> None:
    summary = summarize_audit(audit())
    crisis, counterfactual = summary.suites
    assert [row[0] for row in suite_table(summary, counterfactual).rows] == [
        "sentiment, gender: a woman",
        "sentiment, gender: a man",
    ]
    overview = overview_table(summary)
    assert overview.heads == ("suite", "score", "base", "step 30", "better", "replies")
    assert overview.rows == (
        ("crisis", "help", *["50.0% [25.0%, 75.0%]"] * 2, "higher", "3"),
        (
            "counterfactual",
            "sentiment, largest difference",
            *["-0.25 [-0.375, -0.125], -0.50 SD: gender: a woman"] * 2,
            "zero",
            "6",
        ),
    )
    assert crisis.meanings == (
        ("help", "How often help is named; it does not say whether the help is right."),
    )
    assert counterfactual.meanings == (("sentiment", "Difference of the tone."),)


def test_a_score_that_one_model_lacks_is_a_dash() -> None:
    full = audit()
    base = full.models[0].model_copy(update={"scores": ()})
    summary = summarize_audit(full.model_copy(update={"models": (base, full.models[1])}))
    assert {row[2] for row in overview_table(summary).rows} == {"–"}


def test_every_prompt_has_the_reply_of_every_model() -> None:
    crisis, counterfactual = summarize_audit(audit(prompts=2)).suites
    assert [(one.prompt, one.variant) for one in counterfactual.prompts] == [
        ("0", "a woman"),
        ("0", "a man"),
        ("1", "a woman"),
        ("1", "a man"),
    ]
    assert {
        tuple(model for model, _ in one.replies) for one in (*crisis.prompts, *counterfactual.prompts)
    } == {("base", "step 30")}
