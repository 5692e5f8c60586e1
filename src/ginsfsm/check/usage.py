"""What is declared and used nowhere. Only a whole package or folder can tell that."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Iterator
from functools import cache

from ginsfsm.check.finding import Finding
from ginsfsm.check.source import source_of
from ginsfsm.draw.function_text import parsed
from ginsfsm.event import Event
from ginsfsm.gobj import GObj

__all__ = ["unheard_output", "unread_parameter", "unsent_output"]


def own_outputs(cls: type[GObj]) -> list[type[Event]]:
    """The output events that the class itself declares."""
    inherited = {event for base in cls.__mro__[1:] for event in getattr(base, "outputs", ())}
    return [event for event in cls.outputs if event not in inherited]


def unheard_output(
    cls: type[GObj], makers: Collection[type[GObj]], everybody: Iterable[type[GObj]]
) -> Iterator[Finding]:
    """An output event of a gclass that is made here, and that nobody could be told of.

    Where nobody makes it, it is a library's, and its users are elsewhere.

    Args:
        cls: the gclass.
        makers: the gclasses that make it, or one that derives from it.
        everybody: every gclass that is loaded.
    """
    if not makers:
        return
    heard = {event for one in everybody for event in one.compiled.accepted}
    for event in own_outputs(cls):
        if event not in heard:
            made_by = ", ".join(sorted(one.__qualname__ for one in makers))
            yield _at_output(
                cls,
                event,
                "unheard-output",
                f"no gclass has a row for {event.__name__}, neither {made_by}, which makes a "
                f"{cls.__name__}, nor another; add one, or take it out of outputs",
            )


def unsent_output(cls: type[GObj], files: Iterable[str]) -> Iterator[Finding]:
    """An output event that nothing in these files, nor in those of its bases, could make."""
    named = {name for file in _with_bases(cls, files) for name in _mentions(file)[0]}
    for event in own_outputs(cls):
        if event.__name__ not in named:
            yield _at_output(
                cls,
                event,
                "unsent-output",
                f"nothing sends {event.__name__}; broadcast it, or take it out of outputs",
            )


def unread_parameter(cls: type[GObj], files: Iterable[str]) -> Iterator[Finding]:
    """A parameter that nothing in these files, nor in those of its bases, reads."""
    config = cls.__dict__.get("config")
    if config is None:
        return
    inherited = {name for base in config.__mro__[1:] for name in getattr(base, "_own_params", ())}
    read = {name for file in _with_bases(cls, files) for name in _mentions(file)[1]}
    for name, *_ in config.table():
        if name not in inherited and name not in read:
            source = source_of(cls)
            yield Finding(
                source.file,
                source.parameter_line(name),
                "unread-parameter",
                cls.__qualname__,
                f"nothing reads the parameter {name}; use self.config.{name}, or leave it out",
            )


def _at_output(cls: type[GObj], event: type[Event], code: str, text: str) -> Finding:
    source = source_of(cls)
    return Finding(source.file, source.output_line(event.__name__), code, cls.__qualname__, text)


def _with_bases(cls: type[GObj], files: Iterable[str]) -> set[str]:
    bases = [base for base in cls.__mro__ if base is not object]
    return {*files, *(inspect.getfile(base) for base in bases if base.__module__ != "builtins")}


@cache
def _mentions(file: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a file uses, and those that it reads as an attribute or by a text."""
    tree = parsed(file)
    mentions = _Mentions()
    if tree is not None:
        mentions.visit(tree)
    return frozenset(mentions.names | mentions.read), frozenset(mentions.read)


_DECLARING = ("outputs", "__all__")


class _Mentions(ast.NodeVisitor):
    """Goes over a file, past what only declares: outputs, rows, annotations, exports."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.read: set[str] = set()

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(getattr(target, "id", "") in _DECLARING for target in node.targets):
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and getattr(node.target, "id", "") not in _DECLARING:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """An annotation makes no event."""

    def visit_Call(self, node: ast.Call) -> None:
        declares = getattr(node.func, "id", "") == "on"
        for part in [node.func, *node.args[declares:], *node.keywords]:
            self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.read.add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.read.add(node.value)
