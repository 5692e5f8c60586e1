"""The children that a gclass makes, read from its source and found without running it.

What counts is every call of `create_gobj` in the methods of the gclass, its own and those that it
inherits; from there it goes on with the gclass of each child. Nothing is run, so it shows what can
be made and not how often. A gclass that only the running program knows is shown as it is written.

A `GServerSock` makes its connections itself, under its subscriber; with `session=` each of them is
the child of a session.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.gobj import GObj

__all__ = ["Node", "numbered", "tree_of"]

_EACH: Final = "one for each connection"


@dataclass(frozen=True, slots=True)
class Node:
    """A gclass in the tree.

    Attributes:
        gclass: its name; or the expression that says which one it is.
        name: the name that its gobj gets, as it is written; empty for the root.
        notes: what else is known: where it is made, how many there are.
        children: what it makes.
    """

    gclass: str
    name: str
    notes: tuple[str, ...]
    children: tuple[Node, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The lines that a drawing shows."""
        return (self.gclass, *([self.name] if self.name else []), *self.notes)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of `create_gobj`."""

    name: str
    gclass: type[GObj] | None
    written: str
    parent: str
    method: str
    many: bool
    session: type[GObj] | None


def tree_of(gclass: type[GObj]) -> Node:
    """The gclass and, below it, the gclasses of the children that it makes.

    A gclass whose source cannot be read is shown without children.
    """
    return _node(gclass, "", (), (gclass,))


def numbered(root: Node) -> Iterator[tuple[Node, int | None]]:
    """The nodes from above to below; with each the number, in this order, of the one above it."""
    numbers = count()

    def below(node: Node, above: int | None) -> Iterator[tuple[Node, int | None]]:
        yield node, above
        own = next(numbers)
        for child in node.children:
            yield from below(child, own)

    yield from below(root, None)


def _node(
    gclass: type[GObj], name: str, notes: tuple[str, ...], above: tuple[type[GObj], ...]
) -> Node:
    children: list[Node] = []
    for call in _calls(gclass):
        child = _child(call, above)
        if child not in children:
            children.append(child)
        if call.gclass is not None and issubclass(call.gclass, GServerSock):
            connection = Node(GSock.__name__, f"{call.name}.clisrv_<n>", (_EACH,), ())
            if call.session is not None:
                session = _guarded_node(call.session, f"{call.name}.session_<n>", (_EACH,), above)
                own = replace(connection, notes=())
                connection = replace(session, children=(*session.children, own))
            if connection not in children:
                children.append(connection)
    return Node(gclass.__name__, name, notes, tuple(children))


def _child(call: _Call, above: tuple[type[GObj], ...]) -> Node:
    notes = []
    if call.many:
        notes.append("several")
    if call.method != "start_up":
        notes.append(f"made in {call.method}")
    if call.parent != "self":
        notes.append(f"under {call.parent}")
    if call.gclass is None:
        return Node(call.written, call.name, tuple(notes), ())
    return _guarded_node(call.gclass, call.name, tuple(notes), above)


def _guarded_node(
    gclass: type[GObj], name: str, notes: tuple[str, ...], above: tuple[type[GObj], ...]
) -> Node:
    if gclass in above:
        return Node(gclass.__name__, name, (*notes, "as above"), ())
    if issubclass(gclass, GSock):
        # What is inside the library's own sockets is no news.
        return Node(gclass.__name__, name, notes, ())
    return _node(gclass, name, notes, (*above, gclass))


def _calls(gclass: type[GObj]) -> Iterator[_Call]:
    """The calls of `create_gobj` in the methods that can run in a gobj of this gclass."""
    hidden: set[str] = set()
    for base in gclass.__mro__:
        if base is GObj or not issubclass(base, GObj):
            continue
        for name, value in base.__dict__.items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if not inspect.isfunction(function) or name in hidden:
                continue
            body = _body(function)
            if body is not None:
                yield from _calls_in(gclass, name, function, body)
            if body is None or not _goes_on(body, name):
                hidden.add(name)


def _body(function: Any) -> ast.Module | None:
    """The source of a function; None where there is none, as with a lambda within something."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def _goes_on(body: ast.Module, name: str) -> bool:
    """Whether a method calls the one that it overrides: `super().name()` or `Base.name(self)`."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        for node in ast.walk(body)
    )


def _calls_in(gclass: type[GObj], method: str, function: Any, body: ast.Module) -> Iterator[_Call]:
    names = _names(function)
    for call, many in _found(body, False):
        given = {one.arg: one.value for one in call.keywords if one.arg}
        first = dict(zip(("name", "gclass", "parent"), call.args, strict=False)) | given
        if "gclass" not in first:
            continue
        kind = _resolved(first["gclass"], names, gclass)
        session = _resolved(given["session"], names, gclass) if "session" in given else None
        yield _Call(
            _written(first.get("name")),
            kind,
            ast.unparse(first["gclass"]),
            ast.unparse(first["parent"]) if "parent" in first else "self",
            method,
            many,
            session,
        )


_LOOPS: Final = (
    ast.For, ast.While, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


def _found(node: ast.AST, many: bool) -> Iterator[tuple[ast.Call, bool]]:
    """The calls below a node, in the order of the source, and whether they stand in a loop."""
    if isinstance(node, ast.Call):
        named = node.func
        if getattr(named, "attr", getattr(named, "id", None)) == "create_gobj":
            yield node, many
    for below in ast.iter_child_nodes(node):
        yield from _found(below, many or isinstance(node, _LOOPS))


def _names(function: Any) -> dict[str, Any]:
    """What the names in a function mean: those of its module, and those around it."""
    known = {**vars(builtins), **function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            known[name] = cell.cell_contents
        except ValueError:
            # Not set yet.
            continue
    return known


def _resolved(node: ast.expr, names: dict[str, Any], gclass: type[GObj]) -> type[GObj] | None:
    """The gclass that an expression of names and dots means; None where it is no such thing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    # `self.config.session` is the default of that parameter.
    found = gclass if node.id == "self" and "self" not in names else names.get(node.id)
    for part in reversed(parts):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, GObj) else None


def _written(node: ast.expr | None) -> str:
    """The name that a gobj gets, as a reader of the source would say it."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return ast.unparse(node)
