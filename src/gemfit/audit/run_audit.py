"""Run an audit: every model replies to the same prompts, and the replies are scored.

Cost: the replies. A suite of N prompts takes N replies of a model; see ``--limit``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from gemfit.audit.catalog import MEMORISATION, SUITES
from gemfit.audit.counterfactual import counterfactual
from gemfit.audit.crisis import crisis
from gemfit.audit.custom_prompts import custom_suite
from gemfit.audit.jailbreak import jailbreak
from gemfit.audit.judge import check_judge
from gemfit.audit.medical import medical
from gemfit.audit.memorisation import memorisation
from gemfit.audit.scoring import AuditSettings, ScoredModel, assemble, score_model
from gemfit.audit.stability import stability
from gemfit.audit.suite import PromptSuite
from gemfit.audit.training_conversations import TrainingConversations
from gemfit.core.progress import progress
from gemfit.errors import UserError, did_you_mean
from gemfit.evaluate.generation import generate_replies, prompt_ids
from gemfit.evaluate.models import LoadedModel, ModelRef, find_models, open_model_ref
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit

SYSTEM_PROMPT_SUITES = {
    "crisis": crisis,
    "medical": medical,
    "jailbreak": jailbreak,
    "counterfactual": counterfactual,
    "stability": stability,
}
"""Suites that need a system prompt and nothing else."""
SYSTEM_SAMPLE = 50
"""Conversations that are searched for the system prompt of the data."""


def run_audit(run: RunDir, settings: AuditSettings, save_unjudged: Callable[[Audit], object]) -> Audit:
    """Generate the replies of every model to all prompts, and score them.

    Where the judge fails, ``save_unjudged`` gets the audit without it: the replies took hours.
    """
    disable_progress_bar()
    if settings.judge is not None:
        check_judge(settings.judge)
    refs = find_models(run, settings.checkpoints)
    conversations = TrainingConversations(Path(run.plan().pack.folder))
    system = _system_prompt(conversations, settings)
    suites = make_suites(conversations, system, settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recorded, scored = {"system_prompt": system, "device": device}, list[ScoredModel]()
    for ref in refs:
        loaded = open_model_ref(run, ref, device)
        _check_prompts(loaded, suites)
        replies = {suite.name: _generate(loaded, ref, suite, settings) for suite in suites}
        del loaded  # before the next model is read
        try:
            scored.append(score_model(ref, suites, replies, settings))
        except UserError:
            unjudged = replace(settings, judge=None)
            last = score_model(ref, suites, replies, unjudged)
            save_unjudged(assemble(suites, [*scored, last], unjudged, recorded))
            raise
    return assemble(suites, scored, settings, recorded)


def select_suites(names: Sequence[str]) -> tuple[str, ...]:
    """The suites ``names``, each once, in the order of all; an unknown one is a ``UserError``."""
    for name in names:
        if name not in SUITES:
            raise UserError(
                f"--suite {name}: there is no such suite{did_you_mean(name, SUITES)}; "
                f"there are {', '.join(SUITES)}"
            )
    return tuple(name for name in SUITES if name in names)


def make_suites(
    conversations: TrainingConversations, system: str, settings: AuditSettings
) -> list[PromptSuite]:
    """The selected suites, then the user's custom prompts."""
    suites = [
        SYSTEM_PROMPT_SUITES[name](system, settings.limit)
        for name in settings.suites
        if name in SYSTEM_PROMPT_SUITES
    ]
    if MEMORISATION in settings.suites:
        suites.append(memorisation(conversations, settings.seed, settings.limit))
    if settings.prompts is not None:
        if settings.prompts.stem in SUITES:
            raise UserError(
                f"{settings.prompts}: is called like the suite {settings.prompts.stem}; rename the file"
            )
        suites.append(custom_suite(settings.prompts, system, settings.limit))
    return suites


def _check_prompts(loaded: LoadedModel, suites: Sequence[PromptSuite]) -> None:
    """``UserError`` for prompts that the chat template refuses, before any reply is generated."""
    for suite in suites:
        for prompt in suite.prompts:
            prompt_ids(loaded.tokenizer, prompt.messages)


def _generate(loaded: LoadedModel, ref: ModelRef, suite: PromptSuite, settings: AuditSettings) -> list[str]:
    done = 0
    with progress(f"{ref.name}: {suite.name}", len(suite.prompts), "replies") as shown:

        def add(count: int) -> None:
            nonlocal done
            done += count
            shown.at(done)

        return generate_replies(
            loaded,
            [prompt.messages for prompt in suite.prompts],
            max_new_tokens=suite.max_new_tokens or settings.max_new_tokens,
            temperature=suite.temperature,
            seed=settings.seed,
            batch_size=settings.batch_size,
            progress=add,
        )


def _system_prompt(conversations: TrainingConversations, settings: AuditSettings) -> str:
    if settings.system is not None:
        return settings.system
    split = next(iter(conversations.splits))
    shuffled = conversations.shuffled(split, settings.seed)
    return conversations.system_prompt([one for one, _ in zip(shuffled, range(SYSTEM_SAMPLE), strict=False)])
