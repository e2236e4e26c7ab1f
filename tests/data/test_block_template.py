"""When a chat template is rendered once for all conversations with the same roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.jsonl.batch_parser import read_block
from gemfit.data.jsonl.conversation import Conversation, parse_conversation
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.data.render.opaque_content import looks_inside
from gemfit.data.render.render_context import RenderContext, make_render_context
from gemfit.data.render.template_segments import check_template
from gemfit.data.tokenize import reference_encoder
from gemfit.data.tokenize.tokenizer import CHAT_TEMPLATE
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

GEMMA_LIKE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must take turns') }}
    {%- endif -%}
    {{ '<start_of_turn>' + message['role'] + '\\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>assistant\\n' }}{%- endif -%}
"""
START, END = "{{ '<start_of_turn>' + m.role + '\\n' }}", "{{ '<end_of_turn>\\n' }}"
REPLY = "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}"


def chatml(body: str = "{{ m.content }}") -> str:
    return "{{ bos_token }}{% for m in messages %}" + START + body + END + "{% endfor %}" + REPLY


PASSING_ON = {
    "scratch": CHAT_TEMPLATE,
    "like Gemma's": GEMMA_LIKE,
    "plain": chatml(),
    "trimmed": chatml("{{ m['content'] | trim }}"),
    "variable": chatml("{% set text = m.content %}{{ text | trim }}"),
    "joined": chatml("{{ '' ~ m.content ~ '' }}"),
    "role in a list": chatml("{% if m.role in ['system', 'user', 'assistant'] %}{{ m.content }}{% endif %}"),
    "key in a message": chatml("{% if 'tools' in m and m.get('x') %}?{% endif %}{{ m.content }}"),
    "namespace": chatml("{% set ns = namespace(text=m.content) %}{{ ns.text }}"),
    "last": chatml("{{ m.content }}{% if messages[-1].role == 'user' and loop.last %}{% endif %}"),
}
LOOKING_INSIDE = {
    "search": "{{ m.content }}{% if 'kind' in m.content %}{{ '!' }}{% endif %}",
    "truth": "{{ m.content if m.content else 'nothing' }}",
    "replaced": "{{ m.content | replace('kind', 'cruel') }}",
    "called": "{{ m.content.replace('kind', 'cruel') }}",
    "sliced": "{{ m.content[:99] }}",
    "compared": "{{ m.content }}{% if m == messages[0] and m.content == 'kind' %}{{ '!' }}{% endif %}",
    "got": "{{ m.content }}{% if m.get('content') == 'kind' %}{{ '!' }}{% endif %}",
    "mapped": "{{ m.content }}{% if 'kind' in messages | map(attribute='content') %}{{ '!' }}{% endif %}",
    "named anew": "{% set ns = namespace(a='') %}{% set ns.a = m.content %}{% set b = ns %}"
    "{{ m.content }}{% if b.a == 'kind' %}{{ '!' }}{% endif %}",
    "loop": "{{ m.content }}{% set l = loop %}"
    "{% if l.previtem is defined and l.previtem.content == 'kind' %}!{% endif %}",
    "joined and trimmed": "{{ (' ' ~ m.content) | trim }}",
    "block": "{% set text %}{{ m.content }}{% endset %}{{ text }}",
    "tested": "{{ m.content }}{% if m.content is equalto('kind') %}{{ '!' }}{% endif %}",
    "not there": "{{ m.content }}{% if messages[5].content is string %}{% else %}"
    "{% if m.content == 'kind' %}!{% endif %}{% endif %}",
    "stored": "{{ m.content }}{% set text = m.content %}{% if text | length > 3 %}{% endif %}",
    "picked": "{{ m.content }}"
    "{% if messages | selectattr('content', 'equalto', 'kind') | list %}!{% endif %}",
    "macro": "{% macro say(x) %}{{ x }}{% endmacro %}{{ say(m.content) }}",
    "escaped": "{{ m.content | e }}",
    "as JSON": "{{ m.content | tojson }}",
    "formatted": "{{ '%s' % m.content }}",
    "formatted in a list": "{{ '%s %s' % (m.role, m.content) }}",
    "formatted by name": "{{ '{}'.format(m.content) }}",
    "joined in a list": "{{ [m.content, m.role] | join }}",
    "key of a table": "{{ {'kind': 1}.get(m.content, m.content) }}",
    "counted": "{{ m.content }}{% for x in m.content %}{% endfor %}",
    "in a text": "{{ m.content }}{% if m.content in 'very kind' %}!{% endif %}",
    "in a variable": "{% set text = 'very kind' %}{{ m.content }}{% if m.content not in text %}!{% endif %}",
    "tested to be in a text": "{{ m.content }}{% if m.content is in 'very kind' %}!{% endif %}",
    "picked by a text": "{% if messages | selectattr('content', 'in', 'very kind') | list %}!{% endif %}",
    "tested for its case": "{{ m.content }}{% if m.content is lower %}!{% endif %}",
    "the same object": "{{ m.content }}{% if m.content is sameas 'kind' %}!{% endif %}",
    "an argument": "{{ m.content }}{% if 'kind'.startswith(m.content) %}!{% endif %}",
    "an argument by name": "{{ m.content }}{{ 'kind'.encode(errors=m.content) }}",
    "replacing": "{{ 'not kind'.replace('not kind', m.content) }}",
    "joined by a method": "{{ ''.join([m.content]) | trim }}",
    "joined by a generator": "{{ ''.join(messages | map(attribute='content')) | trim }}",
    "shown in a list": "{{ [m.content] }}",
    "shown in its message": "{{ m }}",
    "stripped of more": "{{ m.content.strip('k') }}",
}


def template_of(source: str) -> Any:
    return SimpleNamespace(chat_template=source, bos_token="<bos>", eos_token="<eos>", pad_token=None)


ROLES = ["user", "assistant"] * 3


@pytest.mark.parametrize("name", PASSING_ON)
def test_a_template_that_passes_contents_on_is_known(name: str) -> None:
    assert not looks_inside(template_of(PASSING_ON[name]), ROLES)
    assert not looks_inside(template_of(PASSING_ON[name]), ["system", *ROLES])


@pytest.mark.parametrize("name", LOOKING_INSIDE)
def test_a_template_that_may_look_into_contents_is_known(name: str) -> None:
    assert looks_inside(template_of(chatml(LOOKING_INSIDE[name])), ["user", "assistant"])


def test_a_template_may_look_into_contents_of_some_roles_alone() -> None:
    source = chatml("{{ m.content if m.role == 'user' else m.content[:9] }}")
    assert not looks_inside(template_of(source), ["user"])
    assert looks_inside(template_of(source), ["user", "assistant"])


def test_a_template_that_cannot_be_parsed_here_is_rendered_for_every_conversation() -> None:
    assert looks_inside(template_of("{% generation %}{% endgeneration %}"), ROLES)


@pytest.fixture
def with_template(tokenizer: Any) -> Iterator[Callable[[str], RenderContext]]:
    """A rendering that follows another template, for one test."""
    before = tokenizer.chat_template

    def use(template: str) -> RenderContext:
        tokenizer.chat_template = template
        return make_render_context(
            tokenizer, DataRecipe(source="x", format="chat_template"), reference_encoder(tokenizer)
        )

    yield use
    tokenizer.chat_template = before


CONTENTS = st.text(st.sampled_from("ab \n\u3000<é"), max_size=5) | st.sampled_from(["kind", " kind "])
CONVERSATIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["user", "user", "assistant", "assistant", "system"]), CONTENTS),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=6,
)


def refused_by_each(rendering: RenderContext, conversations: list[Conversation]) -> list[int]:
    """Lines that the template refuses or rewrites when it renders each conversation."""
    found = []
    for number, conversation in enumerate(conversations, 1):
        try:
            check_template(rendering.renderer.tokenizer, rendering.renderer.segments, conversation)
        except UserError:
            found.append(number)
    return found


@pytest.mark.parametrize("template", [*PASSING_ON.values(), chatml(LOOKING_INSIDE["search"])])
def test_conversations_are_refused_as_if_the_template_rendered_each(
    with_template: Callable[[str], RenderContext], template: str
) -> None:
    rendering = with_template(template)

    @settings(max_examples=40)
    @given(values=CONVERSATIONS)
    def compare(values: list[list[tuple[str, str]]]) -> None:
        conversations, lines = [], []
        for turns in values:
            value = {"messages": [{"role": role, "content": content} for role, content in turns]}
            try:
                conversations.append(parse_conversation(value, "f:1"))
            except UserError:
                continue
            lines.append(orjson.dumps(value))
        found: list[Rejection] = []
        read_block(b"\n".join(lines), 1, "f", rendering, found.append)
        assert [int(one.place.split(":")[1]) for one in found] == refused_by_each(rendering, conversations)

    compare()


def test_a_template_that_looks_inside_refuses_by_content(
    with_template: Callable[[str], RenderContext],
) -> None:
    rendering = with_template(chatml(LOOKING_INSIDE["search"]))
    turns = [[("user", "a"), ("assistant", text)] for text in ("b", "kind", "c")]
    lines = [
        orjson.dumps({"messages": [{"role": r, "content": c} for r, c in conversation]})
        for conversation in turns
    ]
    found: list[Rejection] = []
    messages, _ = read_block(b"\n".join(lines), 1, "f", rendering, found.append)
    assert messages.lines.tolist() == [1, 3]
    assert [one.place for one in found] == ["f:2"]
