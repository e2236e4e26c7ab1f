"""Write the sample: supportive conversations composed from a grammar, the same bytes on every machine.

    python examples/make_conversations.py [FILE]

A conversation is an opening and a row of moves. In a move the assistant asks or offers something and
the person replies; around that come sentences from shuffled decks, so that nothing is said twice until
a deck is used up. ``{feeling}`` in a fragment is a word from a list, ``[a|b]`` one of the alternatives.
All text is in the two JSON files next to this script. It takes about half a second.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

HERE = Path(__file__).parent
SITUATIONS = json.loads((HERE / "conversation_situations.json").read_text("utf-8"))
PHRASES = json.loads((HERE / "conversation_phrases.json").read_text("utf-8"))

NUM_CONVERSATIONS = 300
SEED = 2024
ABOUT_ONESELF = ("details", "user_feelings", "user_context", "user_thoughts")
SAFETY_SHARE = 0.06  # conversations in which somebody is in danger and is pointed to help


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One kind of conversation: how frequent, how many turns, how talkative."""

    weight: int
    moves: tuple[int, int]
    """Fewest and most; the turns are two for each move, and two."""
    sentences: tuple[int, int]
    """Fewest and most around each move."""
    story_share: float = 0.0
    """Chance that a turn also tells or explains something at length."""


# Skewed as real chats are: mostly short, a few that are longer than any row they will be packed into.
SIZES = (
    Size(weight=18, moves=(0, 0), sentences=(0, 3)),
    Size(weight=32, moves=(1, 4), sentences=(1, 3)),
    Size(weight=31, moves=(4, 9), sentences=(1, 4), story_share=0.05),
    Size(weight=15, moves=(9, 15), sentences=(1, 5), story_share=0.1),
    Size(weight=4, moves=(17, 19), sentences=(5, 8), story_share=0.6),
)

T = TypeVar("T")


class Deck(Generic[T]):
    """Shuffled cards, drawn without repeats until all were drawn."""

    def __init__(self, rng: random.Random, cards: Sequence[T]) -> None:
        self._rng, self._cards = rng, cards
        self._left = rng.sample(cards, len(cards))

    def __len__(self) -> int:
        return len(self._left)

    def draw(self) -> T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What the assistant brings up, and the reply."""

    prompt: str
    reply: str
    tried: bool = False
    """The reply tells how something went."""
    answer: str = ""
    """What has to be said to the reply, and ends the conversation."""


class Composer:
    """The decks of one conversation."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.decks: dict[str, Deck[Any]] = {
            name: Deck(rng, cards) for name, cards in PHRASES.items() if name != "words"
        }
        self.decks |= {name: Deck(rng, words) for name, words in PHRASES["words"].items()}
        self.situations = Deck(rng, SITUATIONS)
        self.enter(self.situations.draw())

    def enter(self, situation: dict[str, Any]) -> None:
        """Talk about ``situation`` from here on."""
        for name in ("openings", "details"):
            self.decks[name] = Deck(self.rng, situation[name])
        self.own_questions = Deck(self.rng, situation["questions"])
        self.own_steps = Deck(self.rng, situation["steps"])

    def say(self, *fragments: str) -> str:
        """The fragments with every choice made, as one paragraph."""
        text = " ".join(self._choose(fragment) for fragment in fragments if fragment)
        return re.sub(r" *\n\n *", "\n\n", re.sub(r" {2,}", " ", text)).strip()

    def _choose(self, text: str) -> str:
        text = re.sub(r"\[([^\[\]]+)\]", lambda match: self.rng.choice(match[1].split("|")), text)
        return re.sub(r"\{(\w+?)(_cap)?\}", self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word: str = self.decks[match[1]].draw()
        return word[0].upper() + word[1:] if match[2] else word

    def some(self, count: int, *decks: str) -> list[str]:
        """``count`` sentences, each from a deck chosen by chance."""
        return [self.decks[self.rng.choice(decks)].draw() for _ in range(count)]

    def move(self) -> Move:
        """The next thing that the assistant brings up; a situation is left when it is talked out."""
        weights = (len(self.own_questions), 2 * len(self.own_steps), 2, 2)
        kind = self.rng.choices(("own question", "own step", "question", "technique"), weights)[0]
        if not self.own_questions and not self.own_steps:
            return self._bridge()
        if kind == "technique":
            return self._technique()
        source = {"own question": self.own_questions, "own step": self.own_steps}
        prompt, reply = source.get(kind, self.decks["questions"]).draw()
        return Move(prompt=prompt, reply=reply, tried=kind == "own step")

    def _technique(self) -> Move:
        offer, steps, replies = self.decks["techniques"].draw()
        numbered = "\n".join(f"{number}. {self.say(step)}" for number, step in enumerate(steps, 1))
        return Move(
            prompt=f"{offer}\n\n{numbered}\n\nTell me how it was.", reply=self.rng.choice(replies), tried=True
        )

    def _bridge(self) -> Move:
        prompt, reply = self.decks["bridges"].draw()
        self.enter(self.situations.draw())
        return Move(prompt=prompt, reply=f"{reply} {self.decks['openings'].draw()}")

    def safety(self) -> Move:
        """A question about danger, with an answer that points to people who can help."""
        prompt, reply, answer = self.decks["safety"].draw()
        return Move(prompt=prompt, reply=reply, answer=answer)


def compose(rng: random.Random) -> list[dict[str, str]]:
    """One conversation as chat messages: system, then user and assistant in turn."""
    size = rng.choices(SIZES, [size.weight for size in SIZES])[0]
    composer = Composer(rng)
    turns = list(_turns(composer, size))
    roles = ["system", *("user" if index % 2 == 0 else "assistant" for index in range(len(turns)))]
    contents = [composer.decks["systems"].draw(), *turns]
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


def _turns(composer: Composer, size: Size) -> Iterator[str]:
    rng = composer.rng
    num_moves = rng.randint(*size.moves)
    in_danger = num_moves > 0 and rng.random() < SAFETY_SHARE
    extras = composer.some(rng.randint(*size.sentences), *ABOUT_ONESELF)
    yield composer.say(*composer.some(1, "greetings"), *composer.some(1, "openings"), *extras)
    said = Move(prompt="", reply="")
    for index in range(num_moves):
        is_last = index == num_moves - 1
        reaction = _reaction(composer, said, size)
        said = composer.safety() if is_last and in_danger else composer.move()
        yield composer.say(*reaction, said.prompt)
        yield composer.say(*_reply(composer, said, size, is_last=is_last))
    yield composer.say(*(_ending(composer, said, size) if num_moves else _advice(composer, size)))


def _reaction(composer: Composer, said: Move, size: Size) -> list[str]:
    """What the assistant answers to the reply of a move."""
    first = composer.some(1, *(("celebrations",) if said.tried else ("reflections", "encouragements")))
    count = composer.rng.randint(*size.sentences) // 2
    more = composer.some(count, "reflections", "encouragements", "insights")
    return [*first, *more, *_story(composer, "teachings", size)]


def _reply(composer: Composer, move: Move, size: Size, *, is_last: bool) -> list[str]:
    if move.answer:  # such a message has no other text
        return [move.reply]
    opener = composer.some(1, "user_openers") if composer.rng.random() < 0.5 else []
    progress = composer.some(1, "user_progress") if move.tried else []
    extras = composer.some(composer.rng.randint(*size.sentences), *ABOUT_ONESELF)
    closing = composer.some(1, "user_closings") if is_last else []
    return [*opener, move.reply, *progress, *extras, *_story(composer, "stories", size), *closing]


def _story(composer: Composer, deck: str, size: Size) -> list[str]:
    """A paragraph of its own, now and then; each only once in a conversation."""
    wanted = composer.rng.random() < size.story_share
    return [f"\n\n{composer.decks[deck].draw()}"] if wanted and composer.decks[deck] else []


def _ending(composer: Composer, said: Move, size: Size) -> list[str]:
    if said.answer:
        return [said.answer]
    return [*_reaction(composer, said, size), *composer.some(1, "assistant_closings")]


def _advice(composer: Composer, size: Size) -> list[str]:
    """The whole answer in a conversation of two turns: a suggestion, or only a question."""
    insights = composer.some(composer.rng.randint(*size.sentences) // 2, "insights")
    advice, _ = composer.rng.choice((composer.own_steps, composer.own_questions)).draw()
    return [*composer.some(1, "reflections"), *insights, advice]


def sample_text() -> str:
    """The whole sample as JSON lines."""
    rng = random.Random(SEED)
    conversations = (compose(rng) for _ in range(NUM_CONVERSATIONS))
    return "".join(json.dumps({"messages": c}, ensure_ascii=False) + "\n" for c in conversations)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "conversations.jsonl"
    target.write_text(sample_text(), "utf-8", newline="\n")
    print(f"{target}: {NUM_CONVERSATIONS} conversations, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
