"""Source: what the text of a gclass says that the class itself does not.

Where a state stands in the table, which children a gclass makes, what a method calls: nothing is
run to find that. Where the text cannot be read, or is written in a way that is not understood
(a table that is computed, a class that is a variable), there is no answer, and no smell.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ginsfsm.draw.function_text import Function, nodes_of, parsed
from ginsfsm.draw.making import makings_of
from ginsfsm.gobj import GObj

__all__ = ["UNKNOWN", "Child", "Source", "source_of"]


UNKNOWN: Final = object()
"""A value that is known only when the program runs."""


@dataclass(frozen=True, slots=True)
class Child:
    """A gclass that another one makes, with the parameters that it gives.

    A server makes a session for each connection, and it goes with it.
    """

    gclass: type[GObj]
    given: Mapping[str, object]
    is_session: bool = False


def _definitions(scope: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """The classes and functions of a scope, those under an `if` or a `try` as well."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node
        elif not isinstance(node, ast.expr):
            yield from _definitions(node)


class Source:
    """The text of one gclass.

    Attributes:
        file: where its class statement stands; empty where that is unknown.
        line: likewise.
    """

    def __init__(self, cls: type[GObj]) -> None:
        self.cls = cls
        self.file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
        self.node = self._class_node()
        self.line = 1 if self.node is None else self.node.lineno

    def _class_node(self) -> ast.ClassDef | None:
        scope: ast.AST | None = parsed(self.file)
        for name in self.cls.__qualname__.split("."):
            if name != "<locals>" and scope is not None:
                defined = [node for node in _definitions(scope) if node.name == name]
                scope = defined[-1] if defined else None
        return scope if isinstance(scope, ast.ClassDef) else None

    def _assigned(self, name: str) -> ast.expr | None:
        """What the body of the class assigns to a name."""
        for node in [] if self.node is None else self.node.body:
            if isinstance(node, ast.Assign):
                targets: list[ast.expr] = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            else:
                continue
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
        return None

    def state_line(self, state: str) -> int:
        """Where a state stands in the table."""
        table = self._assigned("machine")
        for key in table.keys if isinstance(table, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value == state:
                return key.lineno
        rows = self.cls.compiled.states[state].rows
        return rows[0].line if rows and rows[0].file == self.file else self.line

    def output_line(self, name: str) -> int:
        """Where an event stands in `outputs`."""
        outputs = self._assigned("outputs")
        for node in () if outputs is None else ast.walk(outputs):
            if name in (getattr(node, "id", None), getattr(node, "attr", None)):
                return int(getattr(node, "lineno", self.line))
        return self.line

    def parameter_line(self, name: str) -> int:
        """Where a parameter stands in the nested `config`."""
        for config in [] if self.node is None else self.node.body:
            if isinstance(config, ast.ClassDef):
                for node in config.body:
                    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
                        return node.lineno
        return self.line

    @cached_property
    def children(self) -> tuple[Child, ...]:
        """What this gclass makes, by `create_gobj` and by the `session` of a server."""
        return tuple(self._children())

    def _children(self) -> Iterator[Child]:
        for made in makings_of(self.cls):
            if made.gclass is not None:
                yield Child(made.gclass, {name: _value(one) for name, one in made.given.items()})
            if made.session is not None:
                # Its parameters stand in session_parameters, which may come from anywhere.
                yield Child(made.session, {"**": UNKNOWN}, is_session=True)

    def calls(self, function: object) -> Iterator[tuple[ast.Call, str]] | None:
        """The calls in a method, and in the methods of `self` that it calls, and so on.

        Returns:
            Each call with what the method names its gobj, mostly `self`; None where the text of
            the function cannot be found.
        """
        first = nodes_of(function)
        return self._calls(first) if first else None

    def _calls(self, todo: list[Function]) -> Iterator[tuple[ast.Call, str]]:
        done: set[Function] = set()
        todo = list(todo)
        while todo:
            node = todo.pop()
            if node in done:
                continue
            done.add(node)
            given = [*node.args.posonlyargs, *node.args.args]
            own = given[0].arg if given else "self"
            for part in ast.walk(node):
                if isinstance(part, ast.Call):
                    yield part, own
                if isinstance(part, ast.Attribute) and getattr(part.value, "id", "") == own:
                    todo += nodes_of(getattr(self.cls, part.attr, None))


_sources: Final[dict[type[GObj], Source]] = {}


def source_of(cls: type[GObj]) -> Source:
    """The source of a gclass, read once."""
    found = _sources.get(cls)
    if found is None:
        found = _sources[cls] = Source(cls)
    return found


def _value(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN
