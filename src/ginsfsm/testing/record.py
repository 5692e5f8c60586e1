"""Record: what happened in a tree, and assertions about it that say what happened instead."""

from __future__ import annotations

from typing import TypeVar

from ginsfsm.errors import GObjError
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.inspection import (
    Created,
    Delivered,
    Destroyed,
    Failed,
    Observation,
    Refused,
    Transition,
)

__all__ = ["Record"]

E = TypeVar("E", bound=Event)


class Record:
    """Everything that an observer was told, oldest first. It is an observer itself.

    Where an event is expected, a class stands for any payload and an object for exactly its own:
    `EV_SEND_DATA` or `EV_SEND_DATA(b"x")`; `Event` itself stands for any event at all. `to` and
    `by` narrow it to one destination or source. An event is sent when it was delivered to a row;
    see `refused` for the others.

    Every assertion raises GObjError where it is given what is no event or no gobj, such as a name:
    nothing would be like it, and `not_sent` would assert nothing.
    """

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def __call__(self, observation: Observation) -> None:
        self.observations.append(observation)

    def __str__(self) -> str:
        return "\n".join(_told(one) for one in self.observations) or "nothing happened"

    def clear(self) -> None:
        """Forget everything, so that what comes next stands alone."""
        self.observations.clear()

    def sent(self, expected: E | type[E], *, to: GObj | None = None, by: GObj | None = None) -> E:
        """Assert that this event was sent, and return the first one that was."""
        __tracebackhide__ = True
        _check("sent", expected, to=to, by=by)
        for one in self._deliveries(to, by):
            if _fits(one.event, expected):
                return one.event  # type: ignore[return-value]
        raise AssertionError(
            f"{_expectation(expected, to, by)}: expected, but it was not sent\n{self._indented()}"
        )

    def sent_in_order(
        self,
        *expected: Event | type[Event],
        to: GObj | None = None,
        by: GObj | None = None,
    ) -> None:
        """Assert that these events were sent in this order; others may stand between them."""
        __tracebackhide__ = True
        _check("sent_in_order", *expected, to=to, by=by)
        left = list(expected)
        for one in self._deliveries(to, by):
            if left and _fits(one.event, left[0]):
                left.pop(0)
        if left:
            found = len(expected) - len(left)
            after = f" after {_name(expected[found - 1])}" if found else ""
            raise AssertionError(
                f"{_expectation(left[0], to, by)}: expected{after}, but it was not sent then "
                f"({found} of {len(expected)} were)\n{self._indented()}"
            )

    def not_sent(
        self, unexpected: Event | type[Event], *, to: GObj | None = None, by: GObj | None = None
    ) -> None:
        """Assert that no such event was sent."""
        __tracebackhide__ = True
        _check("not_sent", unexpected, to=to, by=by)
        for one in self._deliveries(to, by):
            if _fits(one.event, unexpected):
                raise AssertionError(
                    f"{_expectation(unexpected, to, by)}: not expected, but it was sent\n"
                    f"{self._indented()}"
                )

    def refused(self, expected: E | type[E], *, to: GObj | None = None) -> E:
        """Assert that the state of its destination did not accept this event; return the event."""
        __tracebackhide__ = True
        _check("refused", expected, to=to)
        for one in self.observations:
            if (
                isinstance(one, Refused)
                and (to is None or one.destination is to)
                and _fits(one.event, expected)
            ):
                return one.event  # type: ignore[return-value]
        raise AssertionError(
            f"{_expectation(expected, to, None)}: expected to be refused, but it was not\n"
            f"{self._indented()}"
        )

    def states(self, gobj: GObj) -> list[str]:
        """The states that a gobj went to, oldest first; not the one that it began in."""
        __tracebackhide__ = True
        _check("states", gobj=gobj)
        return [
            one.new for one in self.observations if isinstance(one, Transition) and one.gobj is gobj
        ]

    def failures(self) -> list[Failed]:
        """The exceptions that were contained at an edge of the loop."""
        return [one for one in self.observations if isinstance(one, Failed)]

    def _deliveries(self, to: GObj | None, by: GObj | None) -> list[Delivered]:
        return [
            one
            for one in self.observations
            if isinstance(one, Delivered)
            and (to is None or one.destination is to)
            and (by is None or one.source is by)
        ]

    def _indented(self) -> str:
        return "what happened:\n" + "\n".join(f"  {line}" for line in str(self).splitlines())


def _check(method: str, /, *events: object, **gobjs: object) -> None:
    """Refuse what nothing that happened can be like. `to` and `by` may be None."""
    __tracebackhide__ = True
    faults = [
        f"expected an event or its class, got {one!r}"
        for one in events
        if not isinstance(one, Event) and not (isinstance(one, type) and issubclass(one, Event))
    ]
    faults += [
        f"{name}: expected a gobj, got {one!r}"
        for name, one in gobjs.items()
        if not isinstance(one, GObj) and (one is not None or name == "gobj")
    ]
    if faults:
        raise GObjError(f"{method}: {'; '.join(faults)}")


def _fits(event: Event, expected: Event | type[Event]) -> bool:
    if isinstance(expected, type):
        return type(event) is expected or expected is Event
    return type(event) is type(expected) and event == expected


def _name(expected: Event | type[Event]) -> str:
    return expected.__name__ if isinstance(expected, type) else repr(expected)


def _expectation(expected: Event | type[Event], to: GObj | None, by: GObj | None) -> str:
    return (
        _name(expected)
        + ("" if to is None else f" to {to.path}")
        + ("" if by is None else f" by {by.path}")
    )


def _told(one: Observation) -> str:
    """One line of a record."""
    match one:
        case Created(gobj):
            return f"{gobj.path} created"
        case Destroyed(gobj):
            return f"{gobj.path} destroyed"
        case Delivered(source, destination, event, state, depth):
            sender = "outside" if source is None else source.path
            return f"{'  ' * depth}{sender} -> {destination.path} in {state}: {event!r}"
        case Transition(gobj, old, new):
            return f"{gobj.path}: {old} -> {new}"
        case Refused(destination, event, state):
            sender = "outside" if event.source is None else event.source.path
            return f"{sender} -> {destination.path} in {state}: {event!r} was refused"
        case Failed(gobj, event, state, error):
            what = "" if event is None else f" on {event!r}"
            return f"{gobj.path} in {state} failed{what}: {type(error).__name__}: {error}"
