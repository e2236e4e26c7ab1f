"""One audit from its models to what is kept of it, with models that say what they are told to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemfit.audit import run_audit as module
from gemfit.audit.crisis import crisis
from gemfit.audit.run_audit import conduct
from gemfit.audit.scoring import Wanted
from gemfit.errors import UserError
from gemfit.evaluate.models import ModelRef
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit

RUN: Any = SimpleNamespace(plan=lambda: SimpleNamespace(pack=SimpleNamespace(folder="pack")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two models that say the same to two prompts; how many prompts each was asked."""
    asked: list[int] = []

    def say(opened: object, conversations: list[object], **settings: object) -> list[str]:
        asked.append(len(conversations))
        return ["Please call a helpline."] * len(conversations)

    subjects = [ModelRef("base", None, None), ModelRef("step 7", 7, Path())]
    monkeypatch.setattr(module, "find_models", lambda run, names: subjects)
    monkeypatch.setattr(
        module, "open_model_ref", lambda run, subject, device: SimpleNamespace(tokenizer=None)
    )
    monkeypatch.setattr(module, "TrainingConversations", lambda folder: None)
    monkeypatch.setattr(module, "make_probes", lambda talks, system, wanted: [crisis(system, 2)])
    monkeypatch.setattr(module, "replies", say)
    monkeypatch.setattr(module, "prompt_ids", lambda tokenizer, messages: [1])
    return asked


def test_replies_outlive_a_judge_that_fails(asked: list[int]) -> None:
    kept: list[Audit] = []
    with pytest.raises(UserError, match="ended with exit status 1"):
        conduct(run_of(), Wanted(system="", judge="false"), kept.append)
    [audit] = kept
    assert [(subject.name, len(subject.replies)) for subject in audit.subjects] == [("base", 2)]
    assert not any(score.name == "judge" for score in audit.subjects[0].scores)


def test_what_the_chat_template_refuses_is_told_before_anything_is_asked(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tokenizer: object, messages: object) -> list[int]:
        raise UserError("the chat template refuses it")

    monkeypatch.setattr(module, "prompt_ids", refuse)
    with pytest.raises(UserError, match="template refuses"):
        conduct(run_of(), Wanted(system=""), lambda audit: None)
    assert asked == []


def run_of() -> RunDir:
    run: RunDir = RUN
    return run
