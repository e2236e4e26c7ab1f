"""Rendering of a chat template, which is a program that somebody else has written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from gemfit.core.alarm import time_limit

TEMPLATE_SECONDS = 60.0
"""A conversation takes milliseconds; loops in a template need not end."""


def render_template(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
    """``apply_chat_template``, where whatever a template does wrong is a ``TemplateError``."""
    try:
        with time_limit(TEMPLATE_SECONDS):
            return tokenizer.apply_chat_template(messages, **options)
    except TemplateError:
        raise
    except Exception as error:  # it may divide by zero, call itself for ever, use up memory
        said = f": {error}" if str(error) else ""
        raise TemplateError(f"{type(error).__name__}{said}") from error
