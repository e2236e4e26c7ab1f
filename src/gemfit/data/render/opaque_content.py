"""Chat template rendering with opaque contents: whether a template depends on the contents of messages.

If it does not, it renders all conversations with these roles in the same way, so it need not be rendered
for each. Any operation that could distinguish contents raises: comparing, searching, slicing, counting,
methods, arguments. Contents may be trimmed, joined with other text, stored and tested for their type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from gemfit.core.alarm import time_limit
from gemfit.data.render.render_template import TEMPLATE_SECONDS

FILTERS = (
    *("trim", "string", "length", "count", "list", "first", "last", "default", "d"),
    *("selectattr", "rejectattr", "map"),
)
"""Filters that use only Python methods of a content; others run C code that bypasses them."""
TESTS = (
    *("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer"),
    *("float", "boolean", "true", "false", "callable", "eq", "==", "equalto", "ne", "!=", "lt", "<"),
    *("lessthan", "le", "<=", "gt", ">", "greaterthan", "ge", ">=", "even", "odd", "divisibleby"),
)
"""Tests of which the same is true."""
_SCALARS = (str, int, float, bool, type(None))
_LITERAL_COLLECTIONS = (nodes.List, nodes.Tuple, nodes.Dict)
_BLIND = (nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)
"""Statements that convert their body to a plain string."""
_OBSERVERS = (
    *("contains", "eq", "ne", "lt", "le", "gt", "ge", "hash", "len", "bool", "iter", "getitem", "format"),
    *("mod", "rmod", "mul", "rmul", "html", "repr"),
)


class LooksInside(Exception):
    """A template has used a content for more than output."""


class OpaqueContent(str):
    """The unchanged content of a message."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "strip" and type(self) is OpaqueContent:
            return lambda chars=None: self if chars is None else _observe(self)
        return object.__getattribute__(self, name) if name.startswith("__") else _observe(self)

    def __add__(self, other: str) -> JoinedContent:
        return JoinedContent(str.__add__(self, other))

    def __radd__(self, other: str) -> JoinedContent:
        return JoinedContent(str.__add__(other, self))


class JoinedContent(OpaqueContent):
    """A content joined with other text, which trimming could reach."""

    __slots__ = ()


def _observe(*_: object) -> Any:
    raise LooksInside


for observer in _OBSERVERS:
    setattr(OpaqueContent, f"__{observer}__", _observe)


def looks_inside(tokenizer: Any, roles: Sequence[str]) -> bool:
    """Whether the chat template may render messages of these roles differently by their contents."""
    template = _compile(tokenizer.chat_template)
    if template is None:
        return True
    messages = [{"role": role, "content": OpaqueContent("content")} for role in roles]
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token", None) for name in ("bos", "eos", "pad")}
    try:
        with time_limit(TEMPLATE_SECONDS):
            template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=False, **special
            )
    except Exception:  # a template is a program; rendering a conversation will say what is wrong
        return True
    return False


@lru_cache(maxsize=4)
def _compile(source: str) -> Template | None:
    """The template with `~` as `+`, which contents detect; None if it has constructs they cannot detect."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.tests = {name: environment.tests[name] for name in TESTS}
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: ""}
    try:
        tree = environment.parse(source)
        formats = any(not isinstance(node.right, nodes.Const) for node in tree.find_all(nodes.Mod))
        searches = any(map(_may_search_for_content, tree.find_all(nodes.Compare)))
        if formats or searches or any(True for _ in tree.find_all(_BLIND)):
            return None
        return environment.from_string(_ConcatAsAdd().visit(tree))
    except TemplateError:
        return None


def _may_search_for_content(comparison: nodes.Compare) -> bool:
    """Whether it may be `content in text`, which calls no method of the content."""
    return not isinstance(comparison.expr, nodes.Const) and any(
        operand.op in ("in", "notin") and not isinstance(operand.expr, _LITERAL_COLLECTIONS)
        for operand in comparison.ops
    )


class _Environment(ImmutableSandboxedEnvironment):
    """An environment in which a content, or what may hold one, is no argument: `'ab'.find(content)`."""

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if function is not Namespace and any(type(one) not in _SCALARS for one in (*args, *kwargs.values())):
            _observe()
        return super().call(context, function, *args, **kwargs)


class _ConcatAsAdd(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        line = node.lineno
        texts: list[nodes.Expr] = [
            nodes.Filter(part, "string", [], [], None, None, lineno=line) for part in node.nodes
        ]
        return reduce(lambda left, right: nodes.Add(left, right, lineno=line), texts)


def _refuse(message: str) -> None:
    raise TemplateError(message)
