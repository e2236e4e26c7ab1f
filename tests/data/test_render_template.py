"""A chat template is a program: whatever it does wrong is an error of the template."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from gemfit.core.alarm import time_limit
from gemfit.data.render import opaque_content, render_template
from gemfit.data.render.opaque_content import looks_inside
from gemfit.data.render.template_segments import chat_template
from gemfit.errors import UserError

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a' * 10**12 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as o %}",
        "{{ strftime_now(1) }}",
        "{{ [1, 'a'] | sort }}",
        "{{ cycler | tojson }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}",
        "{% for %}",
    ],
)
def test_what_a_template_does_wrong_is_named(template: str, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(UserError, match=r"the tokenizer's template cannot be followed: .*; use format"):
        chat_template(tokenizer)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ 'a' * 10**12 }}", "{{ [1, 'a'] | first + 'a' }}"])
def test_a_template_that_fails_is_not_followed_by_roles(
    template: str, tokenizer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert looks_inside(tokenizer, ["user", "assistant"])


def test_a_template_that_does_not_end_is_ended(tokenizer: Any, monkeypatch: Any) -> None:
    for module in (render_template, opaque_content):
        monkeypatch.setattr(module, "TEMPLATE_SECONDS", 0.1)
    monkeypatch.setattr(tokenizer, "chat_template", LOOP)
    with pytest.raises(UserError, match=r"TimeoutError: took more than 0\.1 seconds"):
        chat_template(tokenizer)
    assert looks_inside(tokenizer, ["user"])


def test_a_time_limit_leaves_the_timer_as_it_was() -> None:
    found: list[int] = []
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, lambda number, frame: found.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 500)
        with pytest.raises(TimeoutError, match="took more"), time_limit(0.01):
            time.sleep(60)
        assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with time_limit(500):
            time.sleep(0.2)
        assert found == [signal.SIGALRM], "an earlier end comes first"
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_another_thread_has_no_time_limit() -> None:
    ended: list[bool] = []

    def block() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        ended.append(True)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert ended
