"""Lines and messages of the tests of forms."""

from __future__ import annotations

import json
from typing import Any

SYSTEM = {"role": "system", "content": "we rest"}
USER = {"role": "user", "content": "long day"}
REPLY = {"role": "assistant", "content": "sleep"}
MORE = {"role": "user", "content": "and night"}
LAST = {"role": "assistant", "content": "work"}
FOUR = [USER, REPLY, MORE, LAST]
TOOLS = [{"type": "function", "function": {"name": "rest", "parameters": {"z": 1.5, "a": None}}}]
CALL = {
    "role": "assistant",
    "tool_calls": [{"function": {"name": "rest", "arguments": {"b": 10**30, "a": None}}}],
}
RESULT = {"role": "tool", "content": "done"}


def by_hand(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def turns(*messages: Any, role: str = "from", text: str = "value") -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt"}
    return [
        {
            role: names.get(m["role"], m["role"]),
            text: m["content"],
            **({"weight": m["weight"]} if "weight" in m else {}),
        }
        for m in messages
    ]


def parts(text: str) -> list[dict[str, str]]:
    return [{"text": text[:3]}, {"text": text[3:]}]


def exact(value: object) -> bytes:
    """As JSON, with integers of any size."""
    return json.dumps(value).encode()
