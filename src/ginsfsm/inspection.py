"""What an observer may be told: created, destroyed, event, transition, refused, error.

An observer is any callable that takes one `Observation`. `gaplic.observe(observer)` turns the
inspection on, `gaplic.observe(None)` turns it off; off, it costs each event one `is None`.

An observation holds the objects themselves, not copies, so that an observer pays only for what it
looks at. It must not keep them longer than it needs them, and it must not send events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from ginsfsm.event import Event
    from ginsfsm.gobj import GObj

__all__ = [
    "Created",
    "Delivered",
    "Destroyed",
    "Failed",
    "Observation",
    "Observer",
    "Refused",
    "Transition",
]


class Created(msgspec.Struct, frozen=True):
    """A gobj has its parameters and its place in the tree; its `start_up` comes next."""

    gobj: GObj


class Destroyed(msgspec.Struct, frozen=True):
    """A gobj has been destroyed; its path and its last state can still be read."""

    gobj: GObj


class Delivered(msgspec.Struct, frozen=True):
    """An event is about to run its row in the destination.

    `source` is None for an event from outside the tree. `depth` counts the deliveries that are
    under way around this one, so a nested send stands one deeper than the event that caused it.
    """

    source: GObj | None
    destination: GObj
    event: Event
    state: str
    depth: int


class Transition(msgspec.Struct, frozen=True):
    """A gobj goes from one state to another; told when the new state has been set."""

    gobj: GObj
    old: str
    new: str


class Refused(msgspec.Struct, frozen=True):
    """The present state of the destination does not accept the event."""

    destination: GObj
    event: Event
    state: str


class Failed(msgspec.Struct, frozen=True):
    """An exception reached an edge of the loop and was contained there.

    `event` is None where no event was being delivered, as in a state timeout.
    """

    gobj: GObj
    event: Event | None
    state: str
    error: Exception


Observation: TypeAlias = Created | Destroyed | Delivered | Transition | Refused | Failed
Observer: TypeAlias = Callable[[Observation], object]
