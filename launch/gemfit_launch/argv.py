"""Command-line options from values: the one place where parameters become argv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def to_argv(params: Mapping[str, object]) -> list[str]:
    """``{"max_new_tokens": 5, "json": True}`` as ``--max-new-tokens 5 --json``.

    None and False are left out, True is a flag, a list or a tuple repeats its option. A value that begins
    with a dash is joined to its option, so that no parser takes it for another option.
    """
    return [word for name, value in params.items() for word in _option(name, value)]


def _option(name: str, value: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [word for item in value for word in _option(name, item)]
    text = str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
