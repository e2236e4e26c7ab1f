"""A user's own prompts: what is expected of replies, and what is wrong with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.audit.custom_prompts import Expectation, custom_suite
from gemfit.errors import UserError


@pytest.mark.parametrize(
    ("expect", "reply", "met"),
    [
        ({"any_of": ["Hello", "hi"]}, "HELLO there", True),
        ({"any_of": ["hello"]}, "Good day", False),
        ({"none_of": ["don't"]}, "I don’t know", False),
        ({"none_of": ["never"]}, "Always", True),
        ({"regex": r"\d{3}"}, "Call 988", True),
        ({"regex": "^Call"}, "call 988", False),
        ({"max_words": 2}, "two words", True),
        ({"max_words": 2}, "three whole words", False),
        ({"any_of": ["a"], "max_words": 1}, "a b", False),
        ({}, "anything", True),
    ],
)
def test_an_expectation_has_to_be_met_in_all_its_parts(
    expect: dict[str, object], reply: str, met: bool
) -> None:
    assert Expectation.model_validate(expect, strict=False).met_by(reply) is met


def write(folder: Path, *lines: str) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_prompts_are_asked_under_the_system_prompt_and_conversations_as_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"id": "a", "prompt": "Hello", "expect": {"any_of": ["hi"]}}',
        "",
        '{"id": "b", "messages": [{"role": "user", "content": "x"}]}',
    )
    suite = custom_suite(path, "Be kind.", None)
    assert suite.name == "mine"
    assert [[m.content for m in p.messages] for p in suite.prompts] == [["Be kind.", "Hello"], ["x"]]
    assert suite.score(suite.prompts[0], "Hi!") == {"as expected": 1.0}
    assert suite.score(suite.prompts[1], "Hi!") == {}
    assert len(custom_suite(path, "", 1).prompts) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "is not JSON"),
        ('{"id": "b"}', "give either `prompt` or `messages`"),
        ('{"id": "b", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}', "give either"),
        ('{"id": "b", "prompt": "x", "expect": {"anyof": ["x"]}}', "expect.anyof"),
        ('{"id": "b", "prompt": "x", "expect": {"regex": "("}}', "is not a valid regular expression"),
        ('{"id": "b", "prompt": "x", "expect": {"max_words": 0}}', "expect.max_words"),
        ('{"id": "a", "prompt": "x"}', "id 'a' is that of line 1 as well"),
    ],
)
def test_an_invalid_line_is_refused_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    path = write(tmp_path, '{"id": "a", "prompt": "Hello"}', line)
    with pytest.raises(UserError, match=rf"mine\.jsonl:2: .*{words}"):
        custom_suite(path, "", None)


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no prompt"):
        custom_suite(write(tmp_path, "", ""), "", None)
    with pytest.raises(UserError, match="cannot be read"):
        custom_suite(tmp_path / "none.jsonl", "", None)
