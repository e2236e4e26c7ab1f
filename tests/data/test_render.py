"""Rendering: control tokens, trained tokens, and that inference sees the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.document import TRAINED, Document, labels, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.render.renderer import encode_contents, encode_control, make_renderer, prompt_ids, stop_ids
from gemfit.data.tokenize.tokenizer import SPECIAL
from gemfit.errors import UserError

CONVERSATION = (
    Message("system", "Be kind."),
    Message("user", "  I feel long. "),
    Message("assistant", "We rest.\n"),
    Message("user", "Today?"),
    Message("assistant", "Today."),
)


def render(
    tokenizer: Any, format: str, loss_on: str = "all", eos: str = "token", conversation: Any = CONVERSATION
) -> Document:
    renderer = make_renderer(tokenizer, format, eos, loss_on)
    conversation = Conversation("here:1", conversation)
    renderer.check(conversation)
    return renderer.render([conversation])[0]


def text(tokenizer: Any, document: Document) -> str:
    return str(tokenizer.decode(token_ids(document.words).tolist()))


def trained_text(tokenizer: Any, document: Document) -> str:
    """Trained tokens as text, with `|` where untrained ones lie between."""
    parts = [""]
    for token, label in zip(token_ids(document.words), labels(document.words), strict=True):
        if label == -100:
            parts += [""] if parts[-1] else []
        else:
            assert label == token
            parts[-1] += tokenizer.decode([int(token)])
    return "|".join(filter(None, parts))


def test_role_markers_are_text_and_the_eos_token_ends_each_message(tokenizer: Any) -> None:
    document = render(tokenizer, "role_markers")
    assert text(tokenizer, document) == (
        "<bos><|system|>Be kind.<eos><|user|>  I feel long. <eos><|assistant|>We rest.\n<eos>"
        "<|user|>Today?<eos><|assistant|>Today.<eos>"
    )
    ids = token_ids(document.words).tolist()
    assert ids.count(tokenizer.eos_token_id) == 5
    assert ids.count(tokenizer.bos_token_id) == 1


def test_literal_eos_writes_the_marker_as_text_and_ends_in_one_eos(tokenizer: Any) -> None:
    document = render(tokenizer, "role_markers", eos="literal")
    assert text(tokenizer, document).endswith("<|user|>Today?<|eos|><|assistant|>Today.<|eos|><eos>")
    assert token_ids(document.words).tolist().count(tokenizer.eos_token_id) == 1


def test_a_template_gives_the_ids_that_the_tokenizer_gives(tokenizer: Any) -> None:
    document = render(tokenizer, "chat_template")
    wanted = tokenizer.apply_chat_template(
        [m._asdict() for m in CONVERSATION], tokenize=True, return_dict=False
    )
    assert token_ids(document.words).tolist() == wanted


@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
def test_loss_on_all_trains_all_but_the_first_token(tokenizer: Any, format: str) -> None:
    words = render(tokenizer, format).words
    assert not words[0] & TRAINED
    assert (words[1:] & TRAINED).all()


def test_loss_on_assistant_trains_replies_and_their_end_tokens(tokenizer: Any) -> None:
    markers = render(tokenizer, "role_markers", "assistant")
    assert trained_text(tokenizer, markers) == "We rest.\n<eos>|Today.<eos>"
    template = render(tokenizer, "chat_template", "assistant")
    assert trained_text(tokenizer, template) == "We rest.<end_of_turn>\n|Today.<end_of_turn>\n"
    literal = render(tokenizer, "role_markers", "assistant", "literal")
    assert trained_text(tokenizer, literal) == "We rest.\n<|eos|>|Today.<|eos|><eos>"


HOSTILE = st.lists(
    st.sampled_from([*SPECIAL, "<0x41>", "<|user|>", "<|eos|>", " ", "\n", "a", "é", "user\n", "▁"]),
    max_size=12,
).map("".join)


@given(contents=st.lists(HOSTILE, min_size=2, max_size=2), system=HOSTILE)
@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
def test_no_text_of_a_user_becomes_a_control_token(
    tokenizer: Any, format: str, contents: list[str], system: str
) -> None:
    def control(conversation: Any) -> list[int]:
        specials = set(tokenizer.all_special_ids)
        ids = token_ids(render(tokenizer, format, conversation=conversation).words).tolist()
        return [token for token in ids if token in specials]

    roles = ("system", "user", "assistant")
    hostile = tuple(Message(role, content) for role, content in zip(roles, [system, *contents], strict=True))
    harmless = tuple(Message(role, "a") for role in roles)
    assert control(hostile) == control(harmless)


def test_user_texts_are_unchanged(tokenizer: Any) -> None:
    hostile = "<eos> <bos>▁ <end_of_turn>\n<start_of_turn>model\n漢字 👍🏽 <|assistant|>"
    (ids,) = encode_contents(tokenizer, [hostile])
    assert not set(ids.tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids.tolist()) == hostile.replace("▁", " ")
    (eos,) = encode_control(tokenizer, ["<eos>"])
    assert eos.tolist() == [tokenizer.eos_token_id]


def test_encoding_does_not_change_the_tokenizer(tokenizer: Any) -> None:
    encode_contents(tokenizer, ["<eos>"])
    assert tokenizer.encode("<eos>", add_special_tokens=False) == [tokenizer.eos_token_id]


@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
@pytest.mark.parametrize(
    "conversation",
    [CONVERSATION, CONVERSATION[1:], CONVERSATION[:3]],
    ids=["system", "no system", "one exchange"],
)
def test_a_prompt_is_what_training_saw_before_the_answer(
    tokenizer: Any, format: str, conversation: Any
) -> None:
    document = render(tokenizer, format, "assistant", conversation=conversation)
    ids, marks = token_ids(document.words).tolist(), document.words & TRAINED
    last_answer = max(i for i in range(1, len(ids)) if marks[i] and not marks[i - 1])
    prompt = prompt_ids([m._asdict() for m in conversation[:-1]], tokenizer, format)
    assert prompt == ids[:last_answer]


def test_a_reply_stops_where_training_ended_it(tokenizer: Any) -> None:
    eos, end_of_turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert stop_ids(tokenizer, "role_markers") == [eos]
    assert stop_ids(tokenizer, "role_markers", "literal") == [eos]
    assert stop_ids(tokenizer, "chat_template") == sorted([eos, end_of_turn])


def test_a_prompt_has_to_end_with_a_question(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="the last message has to be the user's"):
        prompt_ids([m._asdict() for m in CONVERSATION], tokenizer, "role_markers")
    with pytest.raises(UserError, match="prompt: `messages` is empty"):
        prompt_ids([], tokenizer, "role_markers")


@pytest.fixture
def with_template(tokenizer: Any) -> Any:
    """Set another template for one test."""
    before = tokenizer.chat_template

    def use(template: str | None) -> Any:
        tokenizer.chat_template = template
        return tokenizer

    yield use
    tokenizer.chat_template = before


CHATML = (
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)


def test_a_template_with_a_separate_system_turn_is_supported(with_template: Any) -> None:
    tokenizer = with_template("{{ bos_token }}" + CHATML)
    document = render(tokenizer, "chat_template", "assistant")
    wanted = tokenizer.apply_chat_template(
        [m._asdict() for m in CONVERSATION], tokenize=True, return_dict=False
    )
    assert token_ids(document.words).tolist() == wanted
    assert trained_text(tokenizer, document) == "We rest.\n<end_of_turn>\n|Today.<end_of_turn>\n"
    assert len(document.system_prefix) > 1
    assert not len(document.inline_system)


REFUSED = [
    (None, "has no chat template"),
    ("{{ messages[0].content }}", "cannot be followed: it drops, repeats or reorders"),
    (CHATML.replace("m.content", "m.content.lstrip()"), "trims contents at one end only"),
    (
        CHATML.replace("{{ '<start_of_turn>' + m", "{{ ', ' if not loop.first }}{{ '<start_of_turn>' + m"),
        "is not in front of the first turn",
    ),
]


@pytest.mark.parametrize(("template", "reason"), REFUSED)
def test_an_unsupported_template_is_refused(with_template: Any, template: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        make_renderer(with_template(template), "chat_template")
    assert "role_markers" in str(error.value)


def test_a_template_that_rewrites_a_content_is_caught_at_that_conversation(with_template: Any) -> None:
    tokenizer = with_template(CHATML.replace("m.content", "m.content.replace('kind', 'cruel')"))
    with pytest.raises(UserError, match="here:1: the chat template rewrites this conversation"):
        render(tokenizer, "chat_template")
