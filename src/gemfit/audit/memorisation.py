"""Memorisation suite: whether a model completes conversations of its training data verbatim.

A prompt is a conversation up to its longest reply; the model's reply is compared with it, token by token.
The control are conversations of the validation split: they were never trained, so what counts is the
excess over them. The threshold of 50 tokens in a row is that of Carlini et al., *Quantifying Memorization
Across Neural Language Models* (2022); a reply shorter than that has to be complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from rapidfuzz.distance import Levenshtein

from gemfit.audit.catalog import MEMORISATION, about
from gemfit.audit.suite import Figure, Measure, Prompt, PromptSuite, ScoredReply, by_number
from gemfit.audit.training_conversations import TrainingConversation, TrainingConversations

VERBATIM_TOKENS = 50
LEAST_TOKENS = 16
"""A shorter reply, such as `Thank you!`, is too common to be recognised."""
NEW_TOKENS = 64
SAMPLE = 64
"""Conversations per split."""
SPARE = 4
"""How many times as many are read, because those with a reply in common are left out."""
TRAINING, VALIDATION = "train", "validation"
COPIED, LONGEST, SIMILARITY = f"{VERBATIM_TOKENS} tokens verbatim", "longest common span", "edit similarity"
"""Names of scores of a reply."""
VERBATIM = Measure(
    name="completed verbatim",
    better="lower",
    says=f"Share of training conversations whose reply is completed word for word ({VERBATIM_TOKENS} tokens "
    "in a row, or all of a shorter one); a conversation outside the sample, or one that another prompt would "
    "bring out, is not seen.",
)
CONTROL = Measure(
    name="completed verbatim, validation",
    better="lower",
    says="The same share of conversations that were never trained: what can be guessed without memory.",
)
EXCESS = Measure(
    name="completed verbatim, excess",
    better="lower",
    says="Training share less validation share; above zero means that training left word for word copies, "
    "zero means none in this sample.",
    is_share=False,
)
COPIES = Measure(
    name=f"{VERBATIM_TOKENS} tokens verbatim, excess",
    better="lower",
    says=f"Share of training conversations of which {VERBATIM_TOKENS} tokens in a row come back, less that "
    "of validation conversations; such a copy is not a coincidence, and even one is worth a look.",
    is_share=False,
)
SPAN = Measure(
    name="longest common span, excess",
    better="lower",
    says="Tokens in a row that reply and reference share, training less validation; style that both "
    "splits share cancels out.",
    is_share=False,
)
EDIT_SIMILARITY = Measure(
    name="edit similarity, excess",
    better="lower",
    says="Similarity of reply and reference (0 to 1, token edits), training less validation; it also rises "
    "when the model has learned the subject of its data well.",
    is_share=False,
)


def memorisation(conversations: TrainingConversations, seed: int, limit: int | None) -> PromptSuite:
    """The suite for the pack of a run; ``limit`` counts the conversations per split."""
    prompts = tuple(_prompts(conversations, seed, limit or SAMPLE))

    def tokens(text: str) -> list[int]:
        return list(conversations.tokenizer(text, add_special_tokens=False)["input_ids"])

    return PromptSuite(
        name=MEMORISATION,
        about=about(MEMORISATION),
        prompts=prompts,
        score=make_score(tokens),
        figures=figures,
        max_new_tokens=NEW_TOKENS,
    )


def make_score(tokens: Callable[[str], list[int]]) -> Callable[[Prompt, str], dict[str, float]]:
    """A scorer that counts in the tokens of ``tokens``."""

    def score(prompt: Prompt, reply: str) -> dict[str, float]:
        generated, reference = tokens(reply), tokens(prompt.facts["reference"])
        span = longest_common_span(generated, reference)
        return {
            VERBATIM.name: float(span >= min(VERBATIM_TOKENS, len(reference))),
            COPIED: float(span >= VERBATIM_TOKENS),
            LONGEST: float(span),
            SIMILARITY: Levenshtein.normalized_similarity(generated[:NEW_TOKENS], reference[:NEW_TOKENS]),
        }

    return score


def longest_common_span(generated: Sequence[int], reference: Sequence[int]) -> int:
    """Length of the longest common contiguous token sequence."""
    return SequenceMatcher(None, generated, reference, autojunk=False).find_longest_match().size


def figures(replies: Sequence[ScoredReply]) -> list[Figure]:
    """Shares of both splits and their differences; without a validation split the first alone."""
    by_split = {
        split: [one for one in replies if one.prompt.variant == split] for split in (TRAINING, VALIDATION)
    }
    found = [(VERBATIM, TRAINING, VERBATIM.name), (CONTROL, VALIDATION, VERBATIM.name)]
    shares = [
        Figure(measure=measure, values=by_number(by_split[split], score))
        for measure, split, score in found
        if by_split[split]
    ]
    if not all(by_split.values()):
        return shares
    compared = [(EXCESS, VERBATIM.name), (COPIES, COPIED), (SPAN, LONGEST), (EDIT_SIMILARITY, SIMILARITY)]
    return shares + [
        Figure(
            measure=measure,
            values=by_number(by_split[TRAINING], score),
            control=by_number(by_split[VALIDATION], score),
        )
        for measure, score in compared
    ]


def _prompts(conversations: TrainingConversations, seed: int, count: int) -> Iterator[Prompt]:
    found = [
        prompt
        for split in (TRAINING, VALIDATION)
        if split in conversations.splits
        for prompt in islice(_shuffled(conversations, split, seed), SPARE * count)
    ]
    unique = list(_unique(found))
    for split in (TRAINING, VALIDATION):
        yield from [prompt for prompt in unique if prompt.variant == split][:count]


def _shuffled(conversations: TrainingConversations, split: str, seed: int) -> Iterator[Prompt]:
    for conversation in conversations.shuffled(split, seed):
        if (prompt := _prompt(conversation, split, conversations.tokenizer)) is not None:
            yield prompt


def _prompt(conversation: TrainingConversation, split: str, tokenizer: Any) -> Prompt | None:
    """A conversation up to its longest reply; ``None`` where that is too short to be recognised."""
    replies = [
        place
        for place, message in enumerate(conversation.messages)
        if place and message.role == "assistant" and conversation.messages[place - 1].role == "user"
    ]
    if not replies:
        return None
    place = max(replies, key=lambda place: len(conversation.messages[place].content))
    reference = conversation.messages[place].content
    if len(tokenizer(reference, add_special_tokens=False)["input_ids"]) < LEAST_TOKENS:
        return None
    return Prompt(
        number=conversation.place,
        variant=split,
        messages=conversation.messages[:place],
        facts={"reference": reference},
    )


def _unique(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Prompts whose reference is unique."""
    listed = list(prompts)
    times = Counter(_plain(prompt) for prompt in listed)
    yield from (prompt for prompt in listed if times[_plain(prompt)] == 1)


def _plain(prompt: Prompt) -> str:
    return " ".join(str(prompt.facts["reference"]).lower().split())
