"""Write the sample: supportive conversations composed from a grammar, the same bytes on every machine.

    python examples/make_conversations.py [FILE]

A conversation is an opening and a row of moves. In a move the assistant asks or offers something and
the person replies; around that come sentences from shuffled decks, so that nothing is said twice until
a deck is used up. ``{feeling}`` in a fragment is a word from a list, ``[a|b]`` one of the alternatives.
All text is in the two JSON files beside this script. It takes about half a second.
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
SAFETY_SHARE = 0.06  # conversations in which somebody is in danger and is pointed to help

# How many of each kind: weight, moves (turns are 2 * moves + 2), sentences around each move.
# Skewed as real chats are: mostly short, a few that are longer than any row they will be packed into.
SIZES = (
    (18, (0, 0), (0, 3)),
    (32, (1, 4), (1, 3)),
    (31, (4, 9), (1, 5)),
    (15, (9, 15), (2, 6)),
    (4, (17, 19), (6, 9)),
)

T = TypeVar("T")


class Deck(Generic[T]):
    """Shuffled cards, drawn without repeats until all were drawn."""

    def __init__(self, rng: random.Random, cards: Sequence[T]) -> None:
        self._rng, self._cards, self._left = rng, cards, list[T]()

    def draw(self) -> T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """The assistant's prompt, the reply, and what the assistant must say to that, if anything."""

    prompt: str
    reply: str
    answer: str = ""


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
        for name in ("openings", "details", "steps"):
            self.decks[name] = Deck(self.rng, situation[name])
        self.own_questions = Deck(self.rng, situation["questions"])
        self.moves_here = 0

    def say(self, *fragments: str) -> str:
        """The fragments with every choice made, as one paragraph."""
        text = " ".join(self._choose(fragment) for fragment in fragments if fragment)
        return re.sub(r" {2,}", " ", text).strip()

    def _choose(self, text: str) -> str:
        text = re.sub(r"\[([^\[\]]+)\]", lambda match: self.rng.choice(match[1].split("|")), text)
        return re.sub(r"\{(\w+?)(_cap)?\}", self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word = self.decks[match[1]].draw()
        return word[0].upper() + word[1:] if match[2] else word

    def some(self, count: int, *decks: str) -> list[str]:
        """``count`` sentences, each from a deck chosen by chance."""
        return [self.decks[self.rng.choice(decks)].draw() for _ in range(count)]

    def move(self) -> Move:
        """The next thing that the assistant brings up."""
        self.moves_here += 1
        if self.moves_here > 7:
            return self._bridge()
        kind = self.rng.choices(("own", "question", "step", "technique"), (4, 3, 2, 2))[0]
        if kind == "own":
            return Move(**dict(zip(("prompt", "reply"), self.own_questions.draw(), strict=True)))
        if kind == "technique":
            return self._technique()
        prompt, reply = self.decks[f"{kind}s"].draw()
        return Move(prompt=prompt, reply=reply)

    def _technique(self) -> Move:
        offer, steps, replies = self.decks["techniques"].draw()
        numbered = "\n".join(f"{number}. {self.say(step)}" for number, step in enumerate(steps, 1))
        return Move(prompt=f"{offer}\n\n{numbered}\n\nTell me how it was.", reply=self.rng.choice(replies))

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
    (_, moves, sentences) = rng.choices(SIZES, [size[0] for size in SIZES])[0]
    composer = Composer(rng)
    turns = list(_turns(composer, rng.randint(*moves), sentences))
    roles = ["system", *("user" if index % 2 == 0 else "assistant" for index in range(len(turns)))]
    contents = [composer.decks["systems"].draw(), *turns]
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


def _turns(composer: Composer, num_moves: int, sentences: tuple[int, int]) -> Iterator[str]:
    def around() -> int:
        return composer.rng.randint(*sentences)

    danger = composer.rng.randrange(num_moves) if num_moves and composer.rng.random() < SAFETY_SHARE else -1
    yield composer.say(
        *composer.some(1, "greetings"),
        *composer.some(1, "openings"),
        *composer.some(around(), "details", "user_feelings", "user_context", "user_thoughts"),
    )
    answer = ""
    for index in range(num_moves):
        move = composer.safety() if index == danger else composer.move()
        yield composer.say(answer or composer.say(*_reaction(composer, around())), move.prompt)
        yield composer.say(*_reply(composer, move, around(), last=index == num_moves - 1))
        answer = move.answer
    yield composer.say(answer, *_ending(composer, num_moves, around()))


def _reaction(composer: Composer, count: int) -> list[str]:
    return [
        *composer.some(1, "reflections", "encouragements"),
        *composer.some(count // 2, "reflections", "encouragements", "insights"),
    ]


def _reply(composer: Composer, move: Move, count: int, *, last: bool) -> list[str]:
    if move.answer:  # whoever says this says nothing else
        return [move.reply]
    extras = composer.some(count, "details", "user_feelings", "user_context", "user_thoughts", "user_progress")
    opener = composer.some(1, "user_openers") if composer.rng.random() < 0.5 else []
    return [*opener, move.reply, *extras, *(composer.some(1, "user_closings") if last else [])]


def _ending(composer: Composer, num_moves: int, count: int) -> list[str]:
    if num_moves:
        return [*_reaction(composer, count), *composer.some(1, "assistant_closings")]
    advice, _ = composer.decks["steps"].draw()
    return [*composer.some(1, "reflections"), *composer.some(min(count, 1), "insights"), advice]


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
