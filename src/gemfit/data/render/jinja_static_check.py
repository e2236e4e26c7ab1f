"""Whether a chat template looks into contents, or only passes them on.

RenderContext a conversation through Jinja takes some tenths of a millisecond. A template that only passes
contents on takes or refuses a conversation by its roles alone, so each sequence of roles is rendered once.

The proof walks the template's syntax tree and follows what a content can get into. A content may be
written out, trimmed, joined to other text, put into a variable, and asked for its type. Everything else
(a comparison, another filter, a call, its truth) makes the answer False, as does all that this walk does
not know; then every conversation is rendered. What a variable holds is the most that any of its
assignments gives it, wherever they stand.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
)
_TYPE_TESTS = {"string", "iterable", "mapping", "sequence", "number", "none", "defined", "undefined"}
_OF_LOOP = {"first", "last", "index", "index0", "revindex", "revindex0", "length", "depth", "depth0"}
_PICKING = {"selectattr", "rejectattr"}
_INSIDE = {"loop", "self", "caller", "varargs", "kwargs"}
"""Names of Jinja's own through which messages can be reached."""


class _Holds(IntEnum):
    """What of the messages a value holds."""

    NOTHING = 0
    CONTENT = 1
    """One content, trimmed or not, or text that is always the same."""
    JOINED = 2
    """Contents and other text, joined."""
    MESSAGE = 3
    MESSAGES = 4


class _LooksInside(Exception):
    """The template does, or may do, more with a content than to pass it on."""


@lru_cache(16)
def only_passes_contents_on(template: str) -> bool:
    """True where what a template does depends on roles alone. All contents are strings."""
    try:
        tree = _ENVIRONMENT.parse(template)
        walk = _Walk()
        before: dict[str, _Holds] | None = None
        while before != walk.holds:  # what is put into a variable may be used above
            before = dict(walk.holds)
            walk.block(tree.body)
    except (_LooksInside, TemplateSyntaxError):
        return False
    return True


class _Walk:
    """One pass over a template, with what is known of its variables."""

    def __init__(self) -> None:
        self.holds = {"messages": _Holds.MESSAGES}
        self._looped: set[str] = set()
        self._set: set[str] = set()

    def block(self, body: list[nodes.Node]) -> None:
        """Follow statements."""
        for node in body:
            self._statement(node)

    def _statement(self, node: nodes.Node) -> None:
        match node:
            case nodes.Output():
                for child in node.nodes:
                    if self._of(child) > _Holds.JOINED:
                        raise _LooksInside
            case nodes.Assign():
                self._assign(node.target, self._of(node.node))
                self._set.update(_names(node.target))
            case nodes.If():
                self._if(node)
            case nodes.For():
                self._for(node)
            case nodes.ExprStmt():
                self._plain(node.node)
            case nodes.Break() | nodes.Continue():
                pass
            case _:
                raise _LooksInside

    def _if(self, node: nodes.If) -> None:
        """Branches that a string cannot take are left aside."""
        for branch in [node, *node.elif_]:
            taken = self._known(branch.test)
            if taken is None:
                self._condition(branch.test)
            if taken is not False:
                self.block(branch.body)
            if taken:
                return
        self.block(node.else_)

    def _for(self, node: nodes.For) -> None:
        held = self._of(node.iter)
        if node.recursive or held not in (_Holds.NOTHING, _Holds.MESSAGES):
            raise _LooksInside
        self._assign(node.target, _Holds.MESSAGE if held else _Holds.NOTHING)
        self._looped.update(_names(node.target))
        if node.test is not None:
            self._condition(node.test)
        self.block(node.body)
        self.block(node.else_)

    def _assign(self, target: nodes.Node, held: _Holds) -> None:
        match target:
            case nodes.Name():
                name = target.name
            case nodes.NSRef():
                name = f"{target.name}.{target.attr}"
            case nodes.Tuple() if held is _Holds.NOTHING:
                for item in target.items:
                    self._assign(item, held)
                return
            case _:
                raise _LooksInside
        self.holds[name] = _joined(self.holds.get(name), held)

    def _of(self, node: nodes.Node) -> _Holds:
        """What a value holds."""
        match node:
            case nodes.Const() | nodes.TemplateData():
                return _Holds.NOTHING
            case nodes.Name():
                return self._variable(node.name)
            case nodes.Getattr():
                return self._member(node.node, nodes.Const(node.attr))
            case nodes.Getitem():
                return self._member(node.node, node.arg)
            case nodes.Add() | nodes.Concat():
                return self._sum(node)
            case nodes.CondExpr():
                self._condition(node.test)
                branches = [self._of(branch) for branch in (node.expr1, node.expr2) if branch is not None]
                return _joined(branches[0], branches[-1])
            case nodes.Filter():
                return self._filtered(node)
        self._condition(node)
        return _Holds.NOTHING

    def _variable(self, name: str) -> _Holds:
        """What a variable holds; one with contents inside must not get a second name."""
        if name in _INSIDE or self._is_namespace(name):
            raise _LooksInside
        return self.holds.get(name, _Holds.NOTHING)

    def _is_namespace(self, name: str) -> bool:
        return any(known.startswith(f"{name}.") for known in self.holds)

    def _sum(self, node: nodes.Add | nodes.Concat) -> _Holds:
        parts = node.nodes if isinstance(node, nodes.Concat) else [node.left, node.right]
        held = max(self._of(part) for part in parts)
        if held > _Holds.JOINED:
            raise _LooksInside
        return _Holds.JOINED if held else _Holds.NOTHING

    def _member(self, owner: nodes.Node, key: nodes.Node) -> _Holds:
        if isinstance(owner, nodes.Name) and isinstance(key, nodes.Const):
            if owner.name == "loop" and key.value in _OF_LOOP:
                return _Holds.NOTHING
            if self._is_namespace(owner.name):
                return self.holds.get(f"{owner.name}.{key.value}", _Holds.NOTHING)
        held = self._of(owner)
        if held is _Holds.MESSAGES:
            self._index(key)
            return _Holds.MESSAGES if isinstance(key, nodes.Slice) else _Holds.MESSAGE
        if held is _Holds.MESSAGE and isinstance(key, nodes.Const) and not hasattr(dict, str(key.value)):
            return _Holds.CONTENT if key.value == "content" else _Holds.NOTHING
        if held is not _Holds.NOTHING:
            raise _LooksInside
        self._index(key)
        return _Holds.NOTHING

    def _filtered(self, node: nodes.Filter) -> _Holds:
        held = _Holds.NOTHING if node.node is None else self._of(node.node)
        for argument in node.args:
            self._plain(argument)
        plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
        if held is _Holds.NOTHING and plain:
            return held
        if held is _Holds.CONTENT and node.name == "trim" and plain and not node.args:
            return held
        if held is _Holds.MESSAGES and plain:
            if node.name in ("length", "count"):
                return _Holds.NOTHING
            if node.name == "list":
                return held
            if node.name in ("first", "last"):
                return _Holds.MESSAGE
            if node.name in _PICKING and node.args and node.args[0] == nodes.Const("role"):
                return held
        raise _LooksInside

    def _condition(self, node: nodes.Node) -> None:
        """Follow an expression whose result may decide something."""
        match node:
            case nodes.Test() if node.name in _TYPE_TESTS and not node.args:
                self._of(node.node)
            case nodes.Compare() if len(node.ops) == 1 and node.ops[0].op in ("in", "notin"):
                self._plain(node.expr)
                if self._of(node.ops[0].expr) not in (_Holds.NOTHING, _Holds.MESSAGE):
                    raise _LooksInside
            case nodes.Name() | nodes.Getattr() | nodes.Getitem() | nodes.Filter() | nodes.Const():
                if self._of(node) not in (_Holds.NOTHING, _Holds.MESSAGES):
                    raise _LooksInside
            case nodes.Add() | nodes.Concat() | nodes.CondExpr():
                self._plain(node)
            case _ if isinstance(node, _KNOWN):
                for child in node.iter_child_nodes():
                    self._condition(child) if isinstance(node, _LOGIC) else self._plain(child)
            case _:
                raise _LooksInside

    def _plain(self, node: nodes.Node) -> None:
        """Follow an expression that may hold nothing of the messages."""
        if self._of(node) is not _Holds.NOTHING:
            raise _LooksInside

    def _index(self, key: nodes.Node) -> None:
        for part in key.iter_child_nodes() if isinstance(key, nodes.Slice) else [key]:
            self._plain(part)

    def _known(self, test: nodes.Node) -> bool | None:
        """The answer to a question for the type of a content, which is a string."""
        if isinstance(test, nodes.Not):
            answer = self._known(test.node)
            return None if answer is None else not answer
        if isinstance(test, nodes.Test) and not test.args and self._is_there(test.node):
            return {"string": True, "iterable": True, "sequence": True, "mapping": False}.get(test.name)
        return None

    def _is_there(self, node: nodes.Node) -> bool:
        """True for the content of a message that is surely there: one of a loop, or the first."""
        match node:
            case nodes.Getattr(node=owner, attr="content"):
                pass
            case nodes.Getitem(node=owner, arg=nodes.Const(value="content")):
                pass
            case _:
                return False
        match owner:
            case nodes.Name():
                sure = owner.name in self._looped - self._set
                return sure and self.holds.get(owner.name) is _Holds.MESSAGE
            case nodes.Getitem(node=nodes.Name(name="messages"), arg=nodes.Const(value=0)):
                return "messages" not in self._set | self._looped
        return False


_LOGIC = (nodes.And, nodes.Or, nodes.Not)
_KNOWN = (
    *_LOGIC,
    nodes.Compare,
    nodes.Operand,
    nodes.Call,
    nodes.Keyword,
    nodes.Test,
    nodes.List,
    nodes.Tuple,
    nodes.Dict,
    nodes.Pair,
    nodes.BinExpr,
    nodes.UnaryExpr,
    nodes.Slice,
)
"""Expressions that may stand in a condition; all they are made of has to hold nothing of the messages."""


def _names(target: nodes.Node) -> list[str]:
    return [name.name for name in [target, *target.find_all(nodes.Name)] if isinstance(name, nodes.Name)]


def _joined(one: _Holds | None, other: _Holds) -> _Holds:
    """What a variable holds that may hold either."""
    if one is None or one == other:
        return other
    if max(one, other) > _Holds.JOINED:
        raise _LooksInside
    return max(one, other)
