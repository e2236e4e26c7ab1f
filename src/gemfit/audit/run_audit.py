"""One audit: every model gets the same prompts.

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
from gemfit.audit.custom_prompts import own
from gemfit.audit.jailbreak import jailbreak
from gemfit.audit.judge import check_judge
from gemfit.audit.medical import medical
from gemfit.audit.memorisation import memorisation
from gemfit.audit.scoring import ScoredModel, Wanted, assemble, measure
from gemfit.audit.stability import stability
from gemfit.audit.suite import Probe
from gemfit.audit.training_conversations import TrainingConversations
from gemfit.core.progress import progress
from gemfit.errors import UserError, did_you_mean
from gemfit.evaluate.models import ModelRef, Opened, find_models, open_model_ref
from gemfit.evaluate.replies import prompt_ids, replies
from gemfit.rundir import RunDir
from gemfit.schemas.audit import Audit

SPOKEN = {
    "crisis": crisis,
    "medical": medical,
    "jailbreak": jailbreak,
    "counterfactual": counterfactual,
    "stability": stability,
}
"""Suites that need a system prompt and nothing else."""
SYSTEM_SAMPLE = 50
"""Conversations that are looked at for the system prompt of the data."""


def conduct(run: RunDir, wanted: Wanted, keep: Callable[[Audit], object]) -> Audit:
    """Ask every model all prompts, and say what came of it.

    ``keep`` gets what there is, without a judge, where the judge fails: the replies took hours.
    """
    disable_progress_bar()
    if wanted.judge is not None:
        check_judge(wanted.judge)
    subjects = find_models(run, wanted.subjects)
    talks = TrainingConversations(Path(run.plan().pack.folder))
    system = _system(talks, wanted)
    probes = make_probes(talks, system, wanted)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings, measured = {"system_prompt": system, "device": device}, list[ScoredModel]()
    for subject in subjects:
        opened = open_model_ref(run, subject, device)
        for probe in probes:  # what the template refuses is told before anything is asked
            for prompt in probe.prompts:
                prompt_ids(opened.tokenizer, prompt.messages)
        said = {probe.name: _ask(opened, subject, probe, wanted) for probe in probes}
        del opened  # before the next model is read
        try:
            measured.append(measure(subject, probes, said, wanted))
        except UserError:
            unjudged = replace(wanted, judge=None)
            keep(assemble(probes, [*measured, measure(subject, probes, said, unjudged)], unjudged, settings))
            raise
    return assemble(probes, measured, wanted, settings)


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """The suites ``names``, each once, in the order of all; an unknown one is a ``UserError``."""
    for name in names:
        if name not in SUITES:
            raise UserError(
                f"--suite {name}: there is no such suite{did_you_mean(name, SUITES)}; "
                f"there are {', '.join(SUITES)}"
            )
    return tuple(name for name in SUITES if name in names)


def make_probes(talks: TrainingConversations, system: str, wanted: Wanted) -> list[Probe]:
    """The suites that are wanted, then the user's own prompts."""
    probes = [SPOKEN[name](system, wanted.limit) for name in wanted.suites if name in SPOKEN]
    if MEMORISATION in wanted.suites:
        probes.append(memorisation(talks, wanted.seed, wanted.limit))
    if wanted.prompts is not None:
        if wanted.prompts.stem in SUITES:
            raise UserError(
                f"{wanted.prompts}: is called like the suite {wanted.prompts.stem}; rename the file"
            )
        probes.append(own(wanted.prompts, system, wanted.limit))
    return probes


def _ask(opened: Opened, subject: ModelRef, probe: Probe, wanted: Wanted) -> list[str]:
    done = 0
    with progress(f"{subject.name}: {probe.name}", len(probe.prompts), "replies") as shown:

        def add(count: int) -> None:
            nonlocal done
            done += count
            shown.at(done)

        return replies(
            opened,
            [prompt.messages for prompt in probe.prompts],
            max_new_tokens=probe.max_new_tokens or wanted.max_new_tokens,
            temperature=probe.temperature,
            seed=wanted.seed,
            batch_size=wanted.batch_size,
            progress=add,
        )


def _system(talks: TrainingConversations, wanted: Wanted) -> str:
    if wanted.system is not None:
        return wanted.system
    side = next(iter(talks.splits))
    sample = [talk for talk, _ in zip(talks.drawn(side, wanted.seed), range(SYSTEM_SAMPLE), strict=False)]
    return talks.system_prompt(sample)
