"""Stability suite: a repeated or reworded question should get replies of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from statistics import fmean

from rapidfuzz.fuzz import token_sort_ratio
from rapidfuzz.utils import default_process

from gemfit.audit.lexicon import mentions
from gemfit.audit.suite import Figure, Measure, Prompt, PromptSuite, ScoredReply, prompt_messages
from gemfit.audit.suite_file import SuiteFile, first, read_suite

TEMPERATURE = 0.7
TIMES = 3
"""Repetitions of each wording."""
AGAIN = Measure(
    name="agreement, asked again",
    better="higher",
    is_share=False,
    says="Mean similarity of the sorted words (0 to 1, rapidfuzz) of replies to one wording, sampled at "
    f"temperature {TEMPERATURE}; two good answers in other words count as different.",
)
REWORDED = Measure(
    name="agreement, other words",
    better="higher",
    is_share=False,
    says="The same similarity between replies to different wordings of one question; low is normal for "
    "free text, so compare it with the base model.",
)
FLIPS = Measure(
    name="refusal flips",
    better="lower",
    says="Share of questions that are refused at some times and answered at others; words of refusal only.",
)
REFUSED = "refused"


def stability(system: str, limit: int | None) -> PromptSuite:
    """The suite under the system prompt ``system``; ``limit`` counts questions."""
    suite = read_suite("stability")
    return PromptSuite(
        name=suite.name,
        about=suite.about,
        prompts=tuple(_prompts(suite, system, limit)),
        score=score,
        figures=figures,
        temperature=TEMPERATURE,
    )


def score(prompt: Prompt, reply: str) -> dict[str, float]:
    """Whether the reply refuses; agreement is a matter of several."""
    return {REFUSED: float(mentions(reply, "refusal"))}


def figures(replies: Sequence[ScoredReply]) -> list[Figure]:
    """Agreement and flips, by question."""
    questions: dict[str, list[ScoredReply]] = {}
    for one in replies:
        questions.setdefault(one.prompt.number, []).append(one)
    found = [
        (AGAIN, {number: _agreement(group, _same_wording) for number, group in questions.items()}),
        (REWORDED, {number: _agreement(group, _other_wording) for number, group in questions.items()}),
        (FLIPS, {number: _flips(group) for number, group in questions.items()}),
    ]
    return [Figure(measure=measure, values=values) for measure, values in found]


def similarity(one: str, other: str) -> float:
    """Similarity of the sorted words, 0 to 1; that of two empty replies is 1."""
    if not one.strip() and not other.strip():
        return 1.0
    return float(token_sort_ratio(one, other, processor=default_process)) / 100


def _agreement(group: list[ScoredReply], compared: Callable[[ScoredReply, ScoredReply], bool]) -> float:
    pairs = [pair for pair in combinations(group, 2) if compared(*pair)]
    return fmean(similarity(one.reply, other.reply) for one, other in pairs)


def _same_wording(one: ScoredReply, other: ScoredReply) -> bool:
    return bool(one.prompt.facts["wording"] == other.prompt.facts["wording"])


def _other_wording(one: ScoredReply, other: ScoredReply) -> bool:
    return not _same_wording(one, other)


def _flips(group: list[ScoredReply]) -> float:
    return float(len({one.scores[REFUSED] for one in group}) > 1)


def _prompts(suite: SuiteFile, system: str, limit: int | None) -> Iterator[Prompt]:
    for entry in first(suite.prompts, limit):
        for wording, text in enumerate(entry["texts"], 1):
            for time in range(1, TIMES + 1):
                yield Prompt(
                    number=entry["id"],
                    variant=f"wording {wording}, time {time}",
                    messages=prompt_messages(text, system),
                    facts={"wording": wording},
                )
