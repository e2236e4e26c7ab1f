"""The exported chat template reads messages as the training data was read: the same ids, or an error."""

from __future__ import annotations

import json
from typing import Any, Literal

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from gemfit.data.document import TRAINED, token_ids
from gemfit.data.jsonl.conversation import parse_conversation
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.export.chat_template import check_same_ids, tokenizer_for_chat
from gemfit.schemas.recipe_data import DataRecipe

Format = Literal["role_markers", "chat_template"]
TEXT = '\'tis so.<|eos|><|assistant|>\'tis the rain in [{"name": "f", "arguments": {}}]\n\nwhat now?'
CONTROLS = ("<|", "<eos>", "<bos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>")
ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {"bot": "assistant"}
SETTINGS = LineSettings.of(DataRecipe(roles=ROLES))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    # Text that is full of markers teaches the tokenizer to merge them with their neighbours.
    return train_tokenizer([TEXT] * 50, 360)


@pytest.fixture(scope="module")
def exported(tokenizer: Any) -> dict[tuple[str, str], Any]:
    kinds: list[tuple[Format, Literal["token", "literal"]]] = [
        ("role_markers", "token"),
        ("role_markers", "literal"),
        ("chat_template", "token"),
    ]
    return {
        (form, eos): tokenizer_for_chat(tokenizer, DataRecipe(format=form, eos=eos, roles=ROLES))
        for form, eos in kinds
    }


texts = st.text(
    st.sampled_from("ab 'tis.\n\t{}[]\"\\é你\x07\x7f\u2028<|user|>"), max_size=12
) | st.sampled_from(["", "<eos>", "<|user|>", "<|eos|>", " tis ", "\n\n"])
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), min_size=1, max_size=3)
contents = texts | parts
functions = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "look up"]), "arguments": st.dictionaries(texts, values, max_size=3)}
)
calls = functions | st.fixed_dictionaries(
    {"type": st.just("function"), "function": functions}, optional={"id": st.sampled_from("xyz")}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "gpt", "tool", "human", "developer", "bot"])},
    optional={
        "content": contents | contents | contents | st.none() | st.sampled_from([[], 3, {"type": "image"}]),
        "tool_calls": st.lists(calls, max_size=2) | st.none(),
        "tool_call_id": st.sampled_from("xyz"),
        "name": st.just("Ann"),
        "weight": st.just(0),
    },
)
plain = st.fixed_dictionaries({"role": st.sampled_from(["user", "model", "tool"]), "content": contents})
first = st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": contents})
conversations = st.fixed_dictionaries(
    {"messages": st.builds(lambda head, rest: [head, *rest], first, st.lists(messages | plain, max_size=5))},
    optional={"tools": st.lists(st.fixed_dictionaries({"function": functions}), max_size=2)},
)


def trained(tokenizer: Any, form: str, eos: str, value: Any) -> list[int] | None:
    """Ids of training; ``None`` where training refuses the conversation."""
    renderer = make_renderer(tokenizer, form, eos)
    try:
        read = parse_conversation(orjson.loads(orjson.dumps(value)), "here", SETTINGS)
        renderer.check(read)
    except UserError:
        return None
    (document,) = renderer.render([read])
    return list(token_ids(document.words).tolist())


def rendered(exported: Any, value: Any, **options: Any) -> Any:
    return exported.apply_chat_template(
        value["messages"], tools=value.get("tools"), return_dict=True, **options
    )


FIXED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("eos", ["token", "literal"])
@FIXED
@given(value=conversations)
def test_role_markers_render_the_ids_of_training_or_raise(
    tokenizer: Any, exported: dict[tuple[str, str], Any], eos: str, value: Any
) -> None:
    ids = trained(tokenizer, "role_markers", eos, value)
    written = json.dumps(value, ensure_ascii=False)
    try:
        found = rendered(exported["role_markers", eos], value)["input_ids"]
    except TemplateError:
        # Markers and special tokens in a text cannot be rendered; everything else that trains can.
        assert ids is None or any(control in written for control in CONTROLS), written
        return
    if ids is not None:
        assert found == ids


@FIXED
@given(value=st.fixed_dictionaries({"messages": st.lists(first | plain, min_size=1, max_size=5)}))
def test_a_chat_template_renders_the_ids_of_training_or_raises(
    tokenizer: Any, exported: dict[tuple[str, str], Any], value: Any
) -> None:
    ids = trained(tokenizer, "chat_template", "token", value)
    try:
        found = rendered(exported["chat_template", "token"], value)["input_ids"]
    except TemplateError:
        system = value["messages"][0]
        text = "".join(p["text"] for p in c) if isinstance(c := system["content"], list) else c
        # At the edge of a system text, line breaks merge with those of the template.
        merges = system["role"] != "user" and (not text or text != text.strip("\n"))
        written = json.dumps(value)
        assert ids is None or merges or any(control in written for control in CONTROLS), written
        return
    if ids is not None:
        assert found == ids


@FIXED
@given(value=conversations)
def test_generation_marks_are_the_tokens_that_the_loss_on_the_assistant_trains(
    tokenizer: Any, exported: dict[tuple[str, str], Any], value: Any
) -> None:
    renderer = make_renderer(tokenizer, "role_markers", "literal", "assistant")
    try:
        read = parse_conversation(orjson.loads(orjson.dumps(value)), "here", SETTINGS)
        renderer.check(read)
        found = rendered(exported["role_markers", "literal"], value, return_assistant_tokens_mask=True)
    except (UserError, TemplateError):
        return
    (document,) = renderer.render([read])
    if not read.untrained:
        assert found["assistant_masks"] == ((document.words & TRAINED) != 0).astype(int).tolist()


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "critic", "content": "a"}], "a role is not one of system, user, assistant, tool"),
        ([{"role": "user", "content": [{"type": "image"}]}], "not text"),
        ([{"role": "user", "content": None}], "neither text"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "only the first"),
        ([{"role": "user", "content": "a <eos>"}], "control text <eos>"),
        ([{"role": "user", "content": [{"type": "text", "text": "<|assistant|>"}]}], "control text"),
        ([{"role": "user", "content": "a", "reasoning_content": "b"}], "the key reasoning_content"),
        ([{"role": "tool", "content": "a", "tool_call_id": "x"}], "order of their calls"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{}"}]}], "parse their JSON"),
    ],
)
def test_what_was_never_trained_is_refused(
    exported: dict[tuple[str, str], Any], messages: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(TemplateError, match=why):
        rendered(exported["role_markers", "token"], {"messages": messages}, add_generation_prompt=True)


@pytest.mark.parametrize("form", ["role_markers", "chat_template"])
def test_an_evaluation_renders_every_sample(tokenizer: Any, form: Format) -> None:
    lenient = tokenizer_for_chat(tokenizer, DataRecipe(format=form), refuse_merging=False)
    messages = [{"role": "system", "content": "\n"}, {"role": "user", "content": "<eos> <|user|>"}]
    assert "<eos> <|user|>" in lenient.apply_chat_template(messages, tokenize=False)


def test_a_prompt_may_be_a_system_message_alone(exported: dict[tuple[str, str], Any]) -> None:
    system = {"messages": [{"role": "system", "content": "a"}]}
    assert rendered(exported["role_markers", "token"], system, add_generation_prompt=True)
    with pytest.raises(TemplateError, match="only a system message"):
        rendered(exported["role_markers", "token"], system)


def test_images_reach_the_template_of_a_multimodal_base_only(tokenizer: Any) -> None:
    image = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    data = DataRecipe(format="chat_template")
    with pytest.raises(TemplateError, match="not text"):
        tokenizer_for_chat(tokenizer, data).apply_chat_template(image, tokenize=False)
    whole = tokenizer_for_chat(tokenizer, data, text_only=False)
    assert "'image'" in whole.apply_chat_template(image, tokenize=False)


def test_a_template_that_fails_on_what_training_reads_is_named(tokenizer: Any) -> None:
    data = DataRecipe()
    exported = tokenizer_for_chat(tokenizer, data)
    exported.chat_template = "{{ 1 // 0 }}"
    with pytest.raises(UserError, match="template fails on what training reads: ZeroDivisionError"):
        check_same_ids(exported, tokenizer, data)
