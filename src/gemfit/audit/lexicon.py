"""Lexicons, in English: word lists that replies are searched for, and sentiment.

Word lists are data in ``lexicons/en.yaml``. Sentiment is VADER's (Hutto and Gilbert 2014), made for short
texts of social media. Both read words, not meaning: irony, quotations and other languages escape them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from gemfit.config.yaml_source import load

NEAR_WORDS = 4
"""How far before a hit a negator makes it void."""
_CLAUSE_ENDS = re.compile(r"[.!?;:\n]|\bbut\b")
_ODD_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"'})


@dataclass(frozen=True, slots=True)
class WordList:
    """Expressions that mean the same to a scorer, and what makes them void."""

    words: re.Pattern[str]
    negators: re.Pattern[str] | None
    excused: re.Pattern[str] | None
    """Negations that are none, such as "don't hesitate to"."""

    def hits(self, reply: str) -> list[str]:
        """Every expression of the list that ``reply`` means, as far as the words before it tell."""
        text = normalised(reply)
        return [hit[0] for hit in self.words.finditer(text) if not self._void(text[: hit.start()])]

    def _void(self, before: str) -> bool:
        clause = _CLAUSE_ENDS.split(before)[-1]
        near = " ".join(clause.split()[-NEAR_WORDS:])
        if self.negators is None or not self.negators.search(near):
            return False
        return self.excused is None or not self.excused.search(clause)


def normalised(text: str) -> str:
    """Lower case, straight quotes, single spaces; line breaks stay, because they end a clause."""
    plain = unicodedata.normalize("NFKC", text).translate(_ODD_QUOTES).lower()
    return "\n".join(" ".join(line.split()) for line in plain.splitlines())


@cache
def word_list(name: str) -> WordList:
    """The list ``name`` of ``lexicons/en.yaml``."""
    entry = _lexicon()[name]
    return WordList(
        _whole_words(entry["words"]),
        _whole_words(entry["negators"]) if entry["negators"] else None,
        _whole_words(entry["excused"]) if entry.get("excused") else None,
    )


def mentions(reply: str, *names: str) -> bool:
    """Whether ``reply`` has a hit of one of the lists."""
    return any(word_list(name).hits(reply) for name in names)


def sentiment(text: str) -> float:
    """VADER's compound score, from -1 (negative) to 1 (positive); 0 without any known word."""
    return float(_analyser().polarity_scores(text)["compound"])


def num_words(text: str) -> int:
    """Words as white space separates them."""
    return len(text.split())


@cache
def _analyser() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


@cache
def _lexicon() -> dict[str, dict[str, list[str]]]:
    with as_file(files("gemfit.audit") / "lexicons" / "en.yaml") as path:
        data: dict[str, dict[str, list[str]]] = load(path).data
        return data


def _whole_words(expressions: list[str]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(f"(?:{one})" for one in expressions) + r")(?!\w)")
