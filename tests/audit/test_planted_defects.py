"""An audit finds defects that were trained into a model, and none of them in a clean one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.planted_models import DISMISSED, make_models, make_run, memorised
from gemfit.audit.__main__ import main
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit, AuditedModel

pytestmark = [
    pytest.mark.slow,
    # transformers asks for a name of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SUITES = ("crisis", "counterfactual", "memorisation")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def models(run: RunDir) -> dict[str, Path]:
    return make_models(run, run.root.parent)


@pytest.fixture(scope="module")
def audit(run: RunDir, models: dict[str, Path]) -> Audit:
    checkpoints = [word for folder in models.values() for word in ("--checkpoint", str(folder))]
    suites = [word for suite in SUITES for word in ("--suite", suite)]
    options = ["--max-new-tokens", "24", "--batch-size", "32", "--fail-on", "fail"]
    assert main([str(run.root), *checkpoints, *suites, *options]) == ExitCode.FAILED
    return Audit.read(run.audit_file)


def audited_model(audit: Audit, models: dict[str, Path], name: str) -> AuditedModel:
    return next(one for one in audit.models if one.name == str(models[name]))


def failures(audit: Audit, models: dict[str, Path], name: str) -> dict[str, set[str]]:
    """The figures that fail, by suite."""
    found: dict[str, set[str]] = {}
    for finding in audited_model(audit, models, name).findings:
        if finding.severity == "fail":
            found.setdefault(finding.suite, set()).add(finding.text.rpartition(":")[0].partition(": ")[0])
    return found


def test_a_model_that_answers_crises_harmfully_is_found(audit: Audit, models: dict[str, Path]) -> None:
    assert failures(audit, models, "harmful") == {"crisis": {"points to help", "harmful wording"}}
    (finding,) = (f for f in audited_model(audit, models, "harmful").findings if f.text.startswith("harmful"))
    harmful = [
        reply.prompt
        for reply in audited_model(audit, models, "harmful").replies
        if reply.suite == "crisis" and "Keep it to yourself" in reply.reply
    ]
    assert len(harmful) > 14  # wordings that it was not trained on are among them
    assert set(harmful) <= set(finding.prompts)


def test_a_model_that_memorised_one_conversation_is_found(
    audit: Audit, models: dict[str, Path], run: RunDir
) -> None:
    assert set(failures(audit, models, "memorising")) == {"memorisation"}
    ((asked, reply),) = memorised(run)
    (finding,) = (f for f in audited_model(audit, models, "memorising").findings if f.severity == "fail")
    (place,) = finding.prompts
    line = (
        Path(run.plan().recipe.data.source or "").read_text().splitlines()[int(place.rpartition(":")[2]) - 1]
    )
    assert [message["content"] for message in json.loads(line)["messages"]] == [asked, reply]


def test_a_model_that_dismisses_one_group_is_found(audit: Audit, models: dict[str, Path]) -> None:
    found = failures(audit, models, "biased")
    assert set(found) == {"counterfactual"}
    texts = [f.text for f in audited_model(audit, models, "biased").findings if f.severity == "fail"]
    assert any(text.startswith(f"sentiment, religion: {DISMISSED}: -1.") for text in texts)


def test_a_clean_model_has_none_of_these_findings(audit: Audit, models: dict[str, Path]) -> None:
    assert failures(audit, models, "clean") == {}
    suites = {finding.suite for finding in audited_model(audit, models, "clean").findings}
    assert suites <= {"crisis"}  # it may fail to point to help often enough, which is a warning


def test_every_prompt_and_reply_is_in_both_reports(
    audit: Audit, models: dict[str, Path], run: RunDir
) -> None:
    text = run.audit_file.with_suffix(".md").read_text()
    assert len(audit.models) == 4
    for one in audit.models:
        assert {reply.suite for reply in one.replies} == set(SUITES)
        assert all(reply.reply.strip() in text for reply in one.replies)
        assert all(reply.messages[-1].content in text for reply in one.replies)


def test_every_score_says_what_it_can_say_and_has_its_interval(audit: Audit) -> None:
    scores = [score for one in audit.models for score in one.scores]
    assert {score.suite for score in scores} == set(SUITES)
    for score in scores:
        assert score.value.low <= score.value.value <= score.value.high
        assert len(score.says) > 40
