"""The interface of a gclass: the events that it takes, and those that it broadcasts.

What a machine takes from nobody but its own gobj is no part of it. Such an event has a name that
begins with `_`; or it is left out of the `__all__` of the module in which the machine stands, where
that names other events of it.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from ginsfsm.draw.diagram import summary
from ginsfsm.draw.type_text import type_text
from ginsfsm.event import Event
from ginsfsm.gobj import GObj

__all__ = ["Field", "Interface", "Message", "interface_of"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event.

    Attributes:
        name: its name.
        type: its type, as it is written in the class.
        default: the default as Python writes it; None where the field has to be given.
    """

    name: str
    type: str
    default: str | None

    def __str__(self) -> str:
        text = f"{self.name}: {self.type}"
        return text if self.default is None else f"{text} = {self.default}"


@dataclass(frozen=True, slots=True)
class Message:
    """An event, as the documentation lists it.

    Attributes:
        event: its class.
        fields: its payload.
        states: the names of the states that take it; empty for an output event.
    """

    event: type[Event]
    fields: tuple[Field, ...]
    states: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.event.__name__

    @property
    def description(self) -> str:
        """What the event's own docstring says first."""
        return summary(self.event)

    @property
    def signature(self) -> str:
        """`EV_DROP(abort=False)`; the types are left out."""
        words = [
            one.name if one.default is None else f"{one.name}={one.default}" for one in self.fields
        ]
        return f"{self.name}({', '.join(words)})" if words else self.name


@dataclass(frozen=True, slots=True)
class Interface:
    """The interface of one gclass.

    Attributes:
        gclass: whose it is.
        inputs: what others may send to it, in the order of the table.
        internal: what only the gobj itself sends to itself.
        outputs: what it broadcasts, in the order of declaration.
    """

    gclass: type[GObj]
    inputs: tuple[Message, ...]
    internal: tuple[Message, ...]
    outputs: tuple[Message, ...]

    @property
    def name(self) -> str:
        return self.gclass.__name__


def interface_of(gclass: type[GObj]) -> Interface:
    """The interface of a gclass, from its compiled table and its `outputs`."""
    taken = tuple(gclass.compiled.events.values())
    internal = _internal(gclass, taken)
    states = gclass.compiled.states.values()

    def message(event: type[Event]) -> Message:
        return Message(event, _fields(event), tuple(one.name for one in states if event in one))

    return Interface(
        gclass,
        tuple(message(event) for event in taken if event not in internal),
        tuple(message(event) for event in taken if event in internal),
        tuple(Message(event, _fields(event), ()) for event in gclass.outputs),
    )


def _internal(gclass: type[GObj], taken: Iterable[type[Event]]) -> set[type[Event]]:
    owner = next(base for base in gclass.__mro__ if "machine" in base.__dict__)
    named = getattr(sys.modules.get(owner.__module__), "__all__", ())
    events = list(taken)
    if not any(event.__name__ in named for event in events):
        # It names its gclasses only, or nothing; that says nothing of its events.
        return {event for event in events if event.__name__.startswith("_")}
    root = owner.__module__.partition(".")[0]
    return {
        event
        for event in events
        if event.__name__.startswith("_")
        or (event.__name__ not in named and event.__module__.partition(".")[0] == root)
    }


def _fields(event: type[Event]) -> tuple[Field, ...]:
    # Not `msgspec.structs.fields`, which fails where a type exists for type checkers only.
    names, defaults = event.__struct_fields__, event.__struct_defaults__
    needed = [msgspec.NODEFAULT] * (len(names) - len(defaults))
    return tuple(
        Field(name, type_text(event, name), _default(default))
        for name, default in zip(names, (*needed, *defaults), strict=True)
    )


def _default(default: Any) -> str | None:
    if default is msgspec.NODEFAULT:
        return None
    made = getattr(default, "factory", None)
    if isinstance(default, enum.Enum):
        # Its repr is no Python: <Colour.RED: 'red'>.
        return f"{type(default).__name__}.{default.name}"
    if made is None:
        return repr(default)
    return repr(made()) if made in (list, dict, set, tuple) else f"{made.__name__}()"
