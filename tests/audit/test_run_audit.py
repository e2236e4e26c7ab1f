"""An audit with stub models, from their replies to the result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemfit.audit import run_audit as module
from gemfit.audit.crisis import crisis
from gemfit.audit.run_audit import run_audit
from gemfit.audit.scoring import AuditSettings
from gemfit.errors import UserError
from gemfit.evaluate.models import ModelRef
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit

RUN: Any = SimpleNamespace(plan=lambda: SimpleNamespace(pack=SimpleNamespace(folder="pack")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two models with equal replies to two prompts; how many prompts each got."""
    asked: list[int] = []

    def say(loaded: object, conversations: list[object], **settings: object) -> list[str]:
        asked.append(len(conversations))
        return ["Please call a helpline."] * len(conversations)

    refs = [ModelRef("base", None, None), ModelRef("step 7", 7, Path())]
    monkeypatch.setattr(module, "find_models", lambda run, names: refs)
    monkeypatch.setattr(module, "open_model_ref", lambda run, ref, device: SimpleNamespace(tokenizer=None))
    monkeypatch.setattr(module, "TrainingConversations", lambda folder: None)
    monkeypatch.setattr(module, "make_suites", lambda conversations, system, settings: [crisis(system, 2)])
    monkeypatch.setattr(module, "generate_replies", say)
    monkeypatch.setattr(module, "prompt_ids", lambda tokenizer, messages: [1])
    return asked


def test_replies_outlive_a_judge_that_fails(asked: list[int]) -> None:
    audits: list[Audit] = []
    with pytest.raises(UserError, match="ended with exit status 1"):
        run_audit(run_of(), AuditSettings(system="", judge="false"), audits.append)
    [audit] = audits
    assert [(model.name, len(model.replies)) for model in audit.models] == [("base", 2)]
    assert not any(score.name == "judge" for score in audit.models[0].scores)


def test_what_the_chat_template_refuses_is_an_error_before_any_reply(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tokenizer: object, messages: object) -> list[int]:
        raise UserError("the chat template refuses it")

    monkeypatch.setattr(module, "prompt_ids", refuse)
    with pytest.raises(UserError, match="template refuses"):
        run_audit(run_of(), AuditSettings(system=""), lambda audit: None)
    assert asked == []


def run_of() -> RunDir:
    run: RunDir = RUN
    return run
