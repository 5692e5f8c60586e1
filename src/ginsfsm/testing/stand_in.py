"""StandIn: a gobj without behaviour, in the place of one that the test does not want.

It accepts the events that it was told of, keeps them in `received`, and answers what the test
says. The test sends with it as with any gobj: `owner.send_event(gobj, EV_COIN())`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from ginsfsm.errors import GObjError
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.row import Row, on

__all__ = ["StandIn", "make_stand_in", "stand_in_for"]

E = TypeVar("E", bound=Event)


class StandIn(GObj):
    """Keeps what it gets. Made with `ManualGAplic.stand_in`, or by `ManualGAplic.replace`.

    Attributes:
        received: the events that it got, oldest first. `source` says who sent each.
    """

    machine: ClassVar[Mapping[str, list[Row]]] = {"ST_IDLE": []}

    received: list[Event]
    _answers: dict[type[Event], Callable[[Any], object]]

    def start_up(self) -> None:
        """Make room for the events."""
        self.received = []
        self._answers = {}

    def go_out(self) -> None:
        """Nothing was taken; in the place of another gclass, nothing of its is given back."""

    def answer(self, kind: type[E], function: Callable[[E], object]) -> None:
        """Call this function with each event of that class; what it returns is the answer.

        Without one, `send_event` to a stand-in returns None.

        Raises:
            GObjError: that is no class of an event, or one that the stand-in does not accept, or
                no function.
        """
        if not isinstance(kind, type) or not issubclass(kind, Event):
            raise GObjError(f"{self.path}: answer: expected the class of an event, got {kind!r}")
        name = kind.__name__
        if kind not in self.compiled.accepted:
            raise GObjError(f"{self.path}: it does not accept {name}, so it never answers")
        if not callable(function):
            raise GObjError(
                f"{self.path}: answer: expected a function that takes the event, got {function!r}; "
                f"write answer({name}, lambda event: {function!r})"
            )
        self._answers[kind] = function

    def keep(self, event: Event) -> object:
        """The action of every row."""
        self.received.append(event)
        answer = self._answers.get(type(event))
        return None if answer is None else answer(event)


def make_stand_in(accepts: tuple[type[Event] | type[GObj], ...]) -> type[StandIn]:
    """A class of stand-ins that accepts these events, and every output event of these gclasses."""
    events: dict[type[Event], None] = {}
    for given in accepts:
        if isinstance(given, type) and issubclass(given, GObj):
            events.update(dict.fromkeys(given.outputs))
        elif isinstance(given, type) and issubclass(given, Event):
            events[given] = None
        else:
            raise GObjError(f"stand_in: expected event classes or gclasses, got {given!r}")
    return type("StandIn", (StandIn,), {"machine": _machine(events), "__module__": __name__})


def stand_in_for(gclass: type[GObj]) -> type[StandIn]:
    """A class of stand-ins with the parameters, events and methods of a gclass, but inert.

    `start_up`, `go_out` and the machine do nothing but keep events. Instances are instances of the
    gclass as well, so code that looks is content.
    """
    body: dict[str, Any] = {
        "machine": _machine(dict.fromkeys(gclass.compiled.events.values())),
        "outputs": gclass.outputs,
        "__module__": __name__,
        "__doc__": f"Stands in the place of a {gclass.__name__}.",
    }
    return type(gclass.__name__, (StandIn, gclass), body)


def _machine(events: Mapping[type[Event], None]) -> dict[str, list[Row]]:
    return {"ST_IDLE": [on(kind, StandIn.keep) for kind in events]}
