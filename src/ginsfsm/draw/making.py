"""Making: a call of `create_gobj`, found in the source of a gclass without running it.

What counts is every call in the methods that can run in a gobj of the gclass, its own and those
that it inherits, and in the functions that stand in its table. So it is what can be made, and not
how often. Where only the running program knows the gclass, it is known as it is written.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from ginsfsm.draw.function_text import Function, nodes_of
from ginsfsm.gobj import GObj

__all__ = ["Making", "makings_of"]


@dataclass(frozen=True, slots=True)
class Making:
    """One call of `create_gobj`.

    Attributes:
        name: the name that the gobj gets, as a reader of the source would say it.
        gclass: what it makes; None where only the running program knows.
        written: the same, as it is written.
        parent: under which gobj, as it is written.
        method: where the call stands.
        many: whether it stands in a loop.
        session: the gclass that a server makes for each connection, where one is given.
        given: the expression of each argument that has a name; of `**` under that name.
    """

    name: str
    gclass: type[GObj] | None
    written: str
    parent: str
    method: str
    many: bool
    session: type[GObj] | None
    given: Mapping[str, ast.expr]


def makings_of(gclass: type[GObj]) -> Iterator[Making]:
    """What the gobjs of a gclass make; nothing where its source cannot be read."""
    for name, function, nodes in _functions_of(gclass):
        if not _mentions(function.__code__, "create_gobj"):
            continue
        names = _names(function)
        for call, many in (one for node in nodes for one in _calls(node, False)):
            given = {word.arg or "**": word.value for word in call.keywords}
            first = dict(zip(("name", "gclass", "parent"), call.args, strict=False)) | given
            if "gclass" not in first:
                continue
            yield Making(
                _written(first.get("name")),
                _resolved(first["gclass"], names, gclass),
                ast.unparse(first["gclass"]),
                ast.unparse(first["parent"]) if "parent" in first else "self",
                name,
                many,
                _resolved(given["session"], names, gclass) if "session" in given else None,
                given,
            )


def _functions_of(gclass: type[GObj]) -> Iterator[tuple[str, Any, list[Function]]]:
    """The functions that can run in a gobj of this gclass, by name, with their text."""
    hidden: set[str] = set()
    methods: set[object] = set()
    for base in gclass.__mro__:
        if base is GObj or not issubclass(base, GObj):
            continue
        for name, value in base.__dict__.items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if not inspect.isfunction(function):
                continue
            methods.add(function)
            if name not in hidden:
                nodes = nodes_of(function)
                yield name, function, nodes
                if not (_mentions(function.__code__, name) and _goes_on(nodes, name)):
                    hidden.add(name)
    for state in gclass.compiled.states.values():
        for row in state.rows:
            for given in (row.action, row.when):
                if inspect.isfunction(given) and given not in methods:
                    methods.add(given)
                    yield state.name, given, nodes_of(given)


def _mentions(code: CodeType, name: str) -> bool:
    """Whether this is an attribute or a global name in a function, or in one within it.

    Most functions do not, and their text need not be walked through.
    """
    return name in code.co_names or any(
        isinstance(within, CodeType) and _mentions(within, name) for within in code.co_consts
    )


def _goes_on(nodes: list[Function], name: str) -> bool:
    """Whether a method calls the one that it overrides: `super().name()` or `Base.name(self)`."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        for one in nodes
        for node in ast.walk(one)
    )


_LOOPS: Final = (
    ast.For, ast.While, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


def _calls(node: ast.AST, many: bool) -> Iterator[tuple[ast.Call, bool]]:
    """The calls below a node, in the order of the source, and whether they stand in a loop."""
    if isinstance(node, ast.Call):
        named = node.func
        if getattr(named, "attr", getattr(named, "id", None)) == "create_gobj":
            yield node, many
    for below in ast.iter_child_nodes(node):
        # What a class within the function makes is its own.
        if not isinstance(below, ast.ClassDef):
            yield from _calls(below, many or isinstance(node, _LOOPS))


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
