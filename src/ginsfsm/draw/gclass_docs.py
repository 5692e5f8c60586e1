"""What there is to say about a gclass, read from the class itself and from its source.

The parameters come from the declarations, the states and their rows from the compiled table, the
events and their fields from the event classes. What a person wrote comes from the docstrings: of
the gclass, of each event, of each field (the string below it), and of each state, where a paragraph
of the module's or the class's docstring begins with the name of the state and a full stop::

    ST_PAUSED. The owner wants nobody accepted for a while.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import TypeGuard

from ginsfsm.draw.diagram import Box, diagram_of
from ginsfsm.draw.interface import Message, interface_of
from ginsfsm.event import Event
from ginsfsm.gconfig import Config, Param
from ginsfsm.gobj import GObj

__all__ = ["EventDocs", "GclassDocs", "ParameterDocs", "StateDocs"]

_OF_STATES = re.compile(r"(ST_\w+(?:, ST_\w+)*)\. +")


@dataclass(frozen=True, slots=True)
class ParameterDocs:
    """A declared parameter.

    Attributes:
        name: its name.
        kind: the word that `config.table()` has for its type.
        default: the default value, as Python writes it.
        description: the sentence of the declaration, and its limits.
        declared_by: the gclass whose `config` declares it; a base, where it is inherited.
    """

    name: str
    kind: str
    default: str
    description: str
    declared_by: type[GObj]


@dataclass(frozen=True, slots=True)
class EventDocs:
    """An event, and where it is imported from.

    Attributes:
        message: what the interface says of it: class, fields, states.
        module: the module that exports it beside a gclass; else its own.
        doc: its docstring.
        told: what the strings below its fields say, by field.
    """

    message: Message
    module: str
    doc: str
    told: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class StateDocs:
    """A state: the box that a drawing has for it, and what a docstring says of it."""

    box: Box
    doc: str


class GclassDocs:
    """All of it.

    Args:
        gclass: what to document.

    Attributes:
        full_name: module and class.
        doc: the docstring of the class itself; empty where it has none of its own.
        prose: the docstring of its module, without the first line and the paragraphs on states.
        base: the gclass that it derives from, past helpers without a public name; None for GObj.
    """

    def __init__(self, gclass: type[GObj]) -> None:
        self.gclass = gclass
        self.name = gclass.__qualname__
        self.full_name = _full_name(gclass)
        self.doc = _own_doc(gclass)
        paragraphs = _paragraphs(getattr(sys.modules.get(gclass.__module__), "__doc__", None))
        self.prose = [one for one in paragraphs[1:] if not _OF_STATES.match(one)]
        self.base: type[GObj] | None = next(filter(_is_public, gclass.__mro__[1:]), None)
        self._interface = interface_of(gclass)
        self.has_machine = any(state.rows for state in gclass.compiled.states.values())

    @property
    def source_files(self) -> list[str]:
        """The files that this is made from."""
        modules = [sys.modules.get(one.__module__) for one in self.gclass.__mro__]
        files = [getattr(one, "__file__", None) for one in modules]
        return [str(one) for one in files if one is not None]

    def parameters(self) -> list[ParameterDocs]:
        """In the order of `config.table()`."""
        config = self.gclass.config
        return [
            ParameterDocs(
                name,
                kind,
                _default_text(default),
                _with_limits(description, config._params[name]),
                _declarer(self.gclass, name),
            )
            for name, kind, default, description in config.table()
        ]

    def is_home_of(self, event: EventDocs) -> bool:
        """Whether this gclass is the one that the event is exported beside, and not an heir."""
        base = self.base
        inherited = base is not None and (
            event.message.event in base.outputs or event.message.event in base.compiled.accepted
        )
        return event.module == self.gclass.__module__ and not inherited

    def states(self) -> list[StateDocs]:
        """In the order of the table."""
        told = dict(_told_of_states(self.gclass))
        return [StateDocs(box, told.get(box.name, "")) for box in diagram_of(self.gclass).states]

    def inputs(self) -> list[EventDocs]:
        """What others send to it, in the order of the table."""
        return [_event_docs(one) for one in self._interface.inputs]

    def internals(self) -> list[EventDocs]:
        """What it says to itself, in the order of the table."""
        return [_event_docs(one) for one in self._interface.internal]

    def outputs(self) -> list[EventDocs]:
        """What it tells its subscribers, in the order of `outputs`."""
        return [_event_docs(one) for one in self._interface.outputs]


def _event_docs(message: Message) -> EventDocs:
    event = message.event
    told = {name: text for one in reversed(event.__mro__) for name, text in _fields_told(one)}
    return EventDocs(message, _exporter(event) or event.__module__, _own_doc(event), told)


def _exporter(event: type[Event]) -> str | None:
    """The module of a gclass that has the event in its `__all__`, of the event's own package."""
    package = event.__module__.partition(".")[0]
    found = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == package
        and getattr(module, event.__name__, None) is event
        and event.__name__ in getattr(module, "__all__", ())
        and _defines_gclass(module)
    ]
    return min(found, key=lambda name: (len(name), name), default=None)


def _defines_gclass(module: ModuleType) -> bool:
    return any(
        isinstance(one, type) and issubclass(one, GObj) and one.__module__ == module.__name__
        for one in vars(module).values()
    )


def _full_name(gclass: type[GObj]) -> str:
    # The shortest place that exports it, which is where it is imported from: ginsfsm.GObj.
    module, name = gclass.__module__, gclass.__qualname__
    package = module.partition(".")[0]
    if name in getattr(sys.modules.get(package), "__all__", ()):
        module = package
    return f"{module}.{name}"


def _is_public(one: type) -> TypeGuard[type[GObj]]:
    if not issubclass(one, GObj):
        return False
    # A helper class is named neither by the module that everybody imports nor by a person.
    module = sys.modules.get(one.__module__)
    exported = getattr(module, "__all__", (one.__name__,))
    return one.__name__ in exported and one.__module__.count(".") <= 1


def _own_doc(of: type) -> str:
    return inspect.cleandoc(str(of.__dict__.get("__doc__") or ""))


def _paragraphs(doc: str | None) -> list[str]:
    return re.split(r"\n\s*\n", inspect.cleandoc(doc or ""))


def _told_of_states(gclass: type[GObj]) -> Iterator[tuple[str, str]]:
    for base in reversed(gclass.__mro__):
        if issubclass(base, GObj):
            module = sys.modules.get(base.__module__)
            for doc in (getattr(module, "__doc__", None), base.__dict__.get("__doc__")):
                for paragraph in _paragraphs(doc):
                    if found := _OF_STATES.match(paragraph):
                        for name in found[1].split(", "):
                            yield name, paragraph[found.end() :]


def _declarer(gclass: type[GObj], name: str) -> type[GObj]:
    declaring = next(
        one for one in gclass.config.__mro__ if issubclass(one, Config) and name in one._own_params
    )
    # The gclass that is known by a name, of those that have this config or one derived from it.
    heirs = [
        one for one in gclass.__mro__ if issubclass(one, GObj) and issubclass(one.config, declaring)
    ]
    return next((one for one in reversed(heirs) if _is_public(one)), gclass)


def _with_limits(description: str, one: Param) -> str:
    if one.choices is not None:
        return f"{description} ({', '.join(repr(choice) for choice in one.choices)})"
    if one.ge is not None and one.le is not None:
        return f"{description} ({one.ge} to {one.le})"
    # "0 or more" is said by most descriptions already, in what 0 means.
    if one.ge:
        return f"{description} ({one.ge} or more)"
    if one.le is not None:
        return f"{description} ({one.le} or less)"
    return description


def _default_text(default: object) -> str:
    return default.__name__ if isinstance(default, type) else repr(default)


def _fields_told(event: type) -> Iterator[tuple[str, str]]:
    """The strings that stand below the fields of a class."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(event)))
    except (OSError, TypeError, SyntaxError):
        # Made at run time, or typed at a prompt: it has no source.
        return
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(below.value.value)
